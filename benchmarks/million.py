"""Opening a feature set of a million images, as `features list`, `fit-head` and every notebook do first.

    .venv/bin/python benchmarks/million.py

The set is made in a temporary folder; each measurement runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from memory import most

ROWS, SHARD, SHAPE = 1_000_000, 50_000, (16,)


def make(folder: Path) -> None:
    """Write a set of random features of imaginary images."""
    import common
    import numpy as np

    from permafrost.store.set_content import SetContent
    from permafrost.store.set_file import write_set
    from permafrost.store.shard import Rows
    from permafrost.store.store import Store

    spec = common.made_up_spec(SHAPE)
    store = Store.create(folder / "store", spec, about={"base_layers": []})
    generator = np.random.default_rng(0)
    digests = generator.integers(0, 256, (ROWS, 32), dtype=np.uint8)
    shards = []
    for start in range(0, ROWS, SHARD):
        features = generator.standard_normal((SHARD, *SHAPE), dtype=np.float32)
        rows = Rows(digests[start : start + SHARD], np.zeros(SHARD, np.int32), (features,))
        shards.append(store.append(rows, engine="none"))
    numbers = np.arange(ROWS)
    content = SetContent(
        spec=spec,
        store=f"store/{spec.folder_name}",
        root="/data/photos",
        names=[f"train/class-{number % 100:03}/image-{number:07}.jpg" for number in range(ROWS)],
        digests=digests,
        labels=numbers % 100,
        splits=(numbers % 7 == 0).astype(np.uint8),
        class_names=tuple(f"class-{number:03}" for number in range(100)),
        shards=tuple(shards),
        places=np.column_stack([numbers // SHARD, numbers % SHARD]),
        skipped=(),
        about={},
    )
    write_set(folder / "set.h5", content)


def measure(path: str) -> None:
    """Open the set and read one split."""
    started = time.perf_counter()
    import permafrost as pf

    features = pf.open_features(path)
    seconds = time.perf_counter() - started
    print(
        f"opened {len(features):,} rows in {seconds:.2f} s, imports included; peak memory {round(most() / 2**20)} MiB"
    )
    started = time.perf_counter()
    x, _ = features.arrays("validation")
    print(f"read {len(x):,} scattered rows of {SHAPE} in {time.perf_counter() - started:.2f} s")


def main() -> None:
    """Make the set and measure three times."""
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    with tempfile.TemporaryDirectory(prefix="permafrost-") as folder:
        make(Path(folder))
        for _ in range(3):
            subprocess.run([sys.executable, os.path.abspath(__file__), str(Path(folder) / "set.h5")], check=True)


if __name__ == "__main__":
    main()
