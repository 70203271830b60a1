"""(f) A warm extract, of images whose features are kept, goes through thousands of images a second.

Each image is read and hashed again: that is how a changed one is noticed. What counts is beyond start-up: the time in
which the images are gone through, and not building the base. For comparison: the files read and hashed by one thread
in a plain loop.

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
        print(f"{name}: {common.spread([given.images / value for value in values], ',.0f')} images a second")


if __name__ == "__main__":
    main()
