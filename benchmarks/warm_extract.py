"""(f) A repeated extract of cached images processes thousands of images per second.

Each image is read and hashed again, to detect changes. The time is without start-up. For comparison one thread reads
and hashes the files in a plain loop.

    python benchmarks/warm_extract.py --images 2000 --rounds 5
    python benchmarks/warm_extract.py --kind small --images 20000 --rounds 3
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import common

import permafrost as pf


def main() -> None:
    given = common.arguments(__doc__, kind=["photographs", "small"], images=2000, rounds=5)
    setting = common.SETTINGS["mobilenet"]
    common.show_machine()
    with tempfile.TemporaryDirectory() as scratch:
        make = common.photographs if given.kind == "photographs" else common.small_images
        folder = make(given.images, Path(scratch, "images"))
        size = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / given.images / 1e3
        print(f"{given.images} images of {size:.1f} kB on average")
        options = {**setting.of_extract(), "image_size": setting.size if given.kind == "photographs" else 32}
        out = Path(scratch, "set.h5")
        pf.extract(folder, **options, pool="avg", out=out, progress=False)

        def warm() -> float:
            features = pf.extract(folder, **options, pool="avg", out=out, progress=False)
            assert features.summary["computed"] == 0
            print(f"  {features.summary['seconds']}")
            return features.summary["seconds"]["all"]

        def plain() -> float:
            paths = sorted(folder.rglob("*.jpg"))
            return common.timed(lambda: [hashlib.sha256(path.read_bytes()).digest() for path in paths])[0]

        seconds = common.take_turns({"warm extract": warm, "reading and hashing": plain}, given.rounds)
    for name, values in seconds.items():
        print(f"{name}: {common.spread([given.images / value for value in values], ',.0f')} images per second")


if __name__ == "__main__":
    main()
