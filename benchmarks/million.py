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

ROWS, SHARD_ROWS, SHAPE = 1_000_000, 50_000, (16,)


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
    import common

    with tempfile.TemporaryDirectory(prefix="permafrost-") as folder:
        features = common.made_up_set(Path(folder), ROWS, SHAPE, shard_rows=SHARD_ROWS, classes=100)
        for _ in range(3):
            subprocess.run([sys.executable, os.path.abspath(__file__), str(features.path)], check=True)


if __name__ == "__main__":
    main()
