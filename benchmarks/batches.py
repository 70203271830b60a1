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

SHARD_ROWS = 1000
BATCH = 32


def main() -> None:
    given = common.arguments(__doc__, rows=20000, features=2048, rounds=5)
    common.show_machine()
    with tempfile.TemporaryDirectory() as scratch:
        features = common.made_up_set(Path(scratch), given.rows, (given.features,), shard_rows=SHARD_ROWS)
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
