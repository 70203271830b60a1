"""(e) Reading cached features, with their checksums, is nearly as fast as reading the same bytes raw.

Raw: one file with the same float32 values, read whole by `numpy.fromfile`. Both are in the page cache, so reading is
measured and not the disk. The features are random rows, committed shard by shard as an extraction does.

    python benchmarks/reading_the_store.py --rows 20000 --rounds 7
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import common
import numpy as np

from permafrost.store.row_index import RowIndex, place_rows
from permafrost.store.shard import Rows
from permafrost.store.store import Store

SHAPE = (4, 4, 512)
SHARD_ROWS = 2000


def main() -> None:
    given = common.arguments(__doc__, rows=20000, rounds=7)
    common.show_machine()
    spec = common.made_up_spec(SHAPE)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.create(scratch, spec, about={})
        values = generator.standard_normal((given.rows, *SHAPE), dtype=np.float32)
        digests = np.frombuffer(
            b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(given.rows)), np.uint8
        ).reshape(-1, 32)
        for start in range(0, given.rows, SHARD_ROWS):
            part = slice(start, start + SHARD_ROWS)
            store.append(Rows(digests[part], np.zeros(len(digests[part]), np.int32), (values[part],)), engine="none")
        raw = Path(scratch, "raw")
        values.tofile(raw)
        index = RowIndex(store)
        addresses = index.find_all([(digest.tobytes(), 0) for digest in digests])
        shards, places = place_rows([address for address in addresses if address])
        del values

        def read_raw() -> float:
            return common.timed(lambda: np.fromfile(raw, np.float32).reshape(given.rows, *SHAPE))[0]

        def read_store() -> float:
            return common.timed(lambda: store.gather(shards, places, digests=digests)[0])[0]

        read_raw()
        read_store()
        seconds = common.take_turns({"raw": read_raw, "store": read_store}, given.rounds)
    size = given.rows * int(np.prod(SHAPE)) * 4 / 1e9
    for name, values in seconds.items():
        print(f"{name}: {common.spread([size / value for value in values])} GB per second, of {size:.2f} GB")
    print(f"fraction of the speed of raw reading: {common.spread(common.ratios(seconds['raw'], seconds['store']))}")


if __name__ == "__main__":
    main()
