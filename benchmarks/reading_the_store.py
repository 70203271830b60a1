"""(e) Reading cached features, with their checksums, is nearly as fast as reading the same bytes raw.

Raw: one file with the same float32 values, read whole by `numpy.fromfile`. Both are in the page cache, so reading is
measured and not the disk. The features are random rows, committed shard by shard as an extraction does.

    python benchmarks/reading_the_store.py --rows 20000 --rounds 7
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import numpy as np

SHAPE = (4, 4, 512)
SHARD_ROWS = 2000


def main() -> None:
    given = common.arguments(__doc__, rows=20000, rounds=7)
    common.show_machine()
    with tempfile.TemporaryDirectory() as scratch:
        features = common.made_up_set(Path(scratch), given.rows, SHAPE, shard_rows=SHARD_ROWS)
        store, content = features.store, features.content
        raw = Path(scratch, "raw")
        features.arrays()[0].tofile(raw)

        def read_raw() -> float:
            return common.timed(lambda: np.fromfile(raw, np.float32).reshape(given.rows, *SHAPE))[0]

        def read_store() -> float:
            return common.timed(lambda: store.gather(content.shards, content.places, digests=content.digests)[0])[0]

        read_raw()
        read_store()
        seconds = common.take_turns({"raw": read_raw, "store": read_store}, given.rounds)
    size = given.rows * int(np.prod(SHAPE)) * 4 / 1e9
    for name, values in seconds.items():
        print(f"{name}: {common.spread([size / value for value in values])} GB per second, of {size:.2f} GB")
    print(f"fraction of the speed of raw reading: {common.spread(common.ratios(seconds['raw'], seconds['store']))}")


if __name__ == "__main__":
    main()
