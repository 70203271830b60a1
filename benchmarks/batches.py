"""Batches of a feature set take little longer than reading it whole, in order or shuffled.

The features are random rows in shards of a thousand, in the page cache. `random` reads the rows of each batch from
anywhere, as no part of the package does.

    python benchmarks/batches.py --rows 20000 --features 2048 --rounds 5
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import numpy as np

import permafrost as pf
from permafrost.store.feature_set import FeatureSet
from permafrost.store.row_index import RowAddress, place_rows
from permafrost.store.set_content import SetContent
from permafrost.store.set_file import write_set
from permafrost.store.shard import Rows
from permafrost.store.store import Store

SHARD_ROWS = 1000
BATCH = 32


def make_set(folder: Path, count: int, features: int) -> FeatureSet:
    """Write a set of random features."""
    generator = np.random.default_rng(0)
    spec = common.made_up_spec((features,))
    store = Store.create(folder / "store", spec, about={})
    digests = generator.integers(0, 256, (count, 32), dtype=np.uint8)
    addresses: list[RowAddress] = []
    for start in range(0, count, SHARD_ROWS):
        part = digests[start : start + SHARD_ROWS]
        values = generator.standard_normal((len(part), features), dtype=np.float32)
        shard = store.append(Rows(part, np.zeros(len(part), np.int32), (values,)), engine="none")
        addresses += [RowAddress(shard, row) for row in range(len(part))]
    shards, places = place_rows(addresses)
    content = SetContent(
        spec=spec,
        store=f"store/{store.folder.name}",
        root="/images",
        names=[f"{number}.jpg" for number in range(count)],
        digests=digests,
        labels=np.arange(count) % 2,
        splits=np.zeros(count, np.uint8),
        class_names=("a", "b"),
        shards=shards,
        places=places,
        skipped=(),
        about={},
    )
    write_set(folder / "set.h5", content)
    return pf.open_features(folder / "set.h5")


def main() -> None:
    given = common.arguments(__doc__, rows=20000, features=2048, rounds=5)
    common.show_machine()
    with tempfile.TemporaryDirectory() as scratch:
        features = make_set(Path(scratch), given.rows, given.features)
        order = np.random.default_rng(0).permutation(given.rows)

        def in_batches(*, shuffle: bool) -> float:
            return common.timed(lambda: [len(y) for _, y in features.batches(batch_size=BATCH, shuffle=shuffle)])[0]

        def at_random() -> float:
            batches = range(0, given.rows, BATCH)
            return common.timed(lambda: [len(features.features(order[i : i + BATCH])) for i in batches])[0]

        sides = {
            "whole": lambda: common.timed(features.arrays)[0],
            "in order": lambda: in_batches(shuffle=False),
            "shuffled": lambda: in_batches(shuffle=True),
            "random": at_random,
        }
        seconds = common.take_turns(sides, given.rounds)
    for name, values in seconds.items():
        per_batch = [1e3 * value * BATCH / given.rows for value in values]
        print(f"{name}: {common.spread(per_batch)} ms per batch of {BATCH}")


if __name__ == "__main__":
    main()
