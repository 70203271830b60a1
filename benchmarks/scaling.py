"""(g) Time grows linearly with the number of images, memory hardly grows, and a huge image does no harm.

Small images through a small base, each run in a process of its own: seconds without start-up, and the process's peak
memory. `--huge` adds JPEGs of 12,000 x 9,000.

    python benchmarks/scaling.py --counts 1000,10000,100000
    python benchmarks/scaling.py --counts 1000 --huge 1
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import common
from memory import most


def measure(folder: str, out: str) -> None:
    """Extract, and print seconds and memory; runs in a process of its own."""
    import permafrost as pf

    features = pf.extract(
        folder, base="mobilenet:alpha=0.25", weights="none", image_size=32, pool="avg", out=out, progress=False
    )
    peak = most() / 1e6
    print(json.dumps(features.summary["seconds"] | {"megabytes": peak, "computed": features.summary["computed"]}))


def huge_image(path: Path) -> None:
    """Write a JPEG of 12,000 x 9,000."""
    from PIL import Image

    Image.radial_gradient("L").resize((12000, 9000)).convert("RGB").save(path, quality=80)


def main() -> None:
    given = common.arguments(__doc__, counts="1000,10000,100000", huge=0)
    common.show_machine()
    for count in map(int, given.counts.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            folder = common.small_images(count, Path(scratch, "images"))
            for number in range(given.huge):
                huge_image(folder / "cats" / f"huge-{number}.jpg")
            command = [sys.executable, __file__, "measure", str(folder), str(Path(scratch, "set.h5"))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
        seconds = found["all"] - found["engine"]
        print(
            f"{count:,} images: {seconds:.1f} s without start-up, {found['computed'] / seconds:,.0f} per second, "
            f"peak {found['megabytes']:,.0f} MB; start {found['start']:.1f} s, total {found['total']:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:])
    else:
        main()
