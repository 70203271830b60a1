"""(h) Heads on features larger than memory: peak memory against the limit, throughput against reading alone.

`make` writes a set of random features, as wide as averaged features of Inception v3's `mixed7`, sorted by class,
the worst case for shuffling. Each measurement runs in a process of its own, after the shards have been dropped from
the page cache. `peak` is resident memory above that of the process after it has fitted the same head to a few rows:
everything that is loaded at first use is there then, and the memory of that fit is released.

    python benchmarks/out_of_core.py make big/set.h5 --gigabytes 8.2 --features 768
    python benchmarks/out_of_core.py compare big/set.h5 --memory-limit 1GB
    python benchmarks/out_of_core.py fit big/set.h5 --memory-limit 1GB --head ridge
    python benchmarks/out_of_core.py fit big/set.h5 --memory-limit 1GB --head dense
    python benchmarks/out_of_core.py order big/set.h5 --memory-limit 1GB
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
from memory import Peak

CLASSES = 4
SHARD_BYTES = 64 * 2**20
SPLITS = (0.9, 0.05, 0.05)


def make(path: Path, gigabytes: float, features: int) -> None:
    """Write a set of random rows in a store with a real, tiny trunk."""
    import keras
    from PIL import Image

    import permafrost as pf
    from permafrost.store.set_file import write_set
    from permafrost.store.shard import Rows

    with tempfile.TemporaryDirectory() as scratch:
        generator = np.random.default_rng(0)
        for label in range(CLASSES):
            folder = Path(scratch, "photos", f"class-{label}")
            folder.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number}.png")
        pixels = keras.Input((16, 16, 3))
        outputs = keras.layers.Conv2D(features, 3, strides=4, activation="relu", name="top")(pixels)
        keras.Model(pixels, outputs, name="made_up").save(Path(scratch, "made_up.keras"))
        seed = pf.extract(
            Path(scratch, "photos"),
            base=str(Path(scratch, "made_up.keras")),
            pool="avg",
            preprocessing="none",
            out=path,
            progress=False,
        )
        count = int(gigabytes * 1e9 / (4 * features))
        labels = np.sort(np.arange(count) % CLASSES)
        centres = generator.normal(0, 1, (CLASSES, features)).astype(np.float32)
        digests = generator.integers(0, 256, (count, 32), np.uint8)
        noise = generator.normal(0, 1, (4096, features)).astype(np.float32) * np.float32(3 * features**0.5 / 8)
        shards, places = [], np.empty((count, 2), np.int64)
        size = SHARD_BYTES // (4 * features)
        for number, start in enumerate(range(0, count, size)):
            part = slice(start, min(start + size, count))
            rows = part.stop - part.start
            # The sum of two stored noise rows: as good as new noise, and as fast to make as to write.
            draw = generator.integers(0, len(noise), (2, rows))
            values = np.maximum(centres[labels[part]] + noise[draw[0]] + noise[draw[1]] * np.float32(0.5), 0)
            views = np.zeros(rows, np.int32)
            shards.append(seed.store.append(Rows(digests[part], views, (values,)), engine="none"))
            places[part, 0], places[part, 1] = number, np.arange(rows)
        splits = generator.choice(3, count, p=SPLITS).astype(np.uint8)
        names = [f"{label}/{number}" for number, label in enumerate(labels)]
        content = dataclasses.replace(
            seed.content,
            names=names,
            digests=digests,
            labels=labels,
            splits=splits,
            shards=tuple(shards),
            places=places,
        )
        write_set(path, content)
        print(json.dumps({"rows": count, "gigabytes": count * 4 * features / 1e9, "shards": len(shards)}))


def forget(path: Path) -> None:
    """Drop the shards of a set from the page cache, so that they are read from disk."""
    for shard in (path.parent / "store").glob("*/*.h5"):
        with open(shard, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(path: Path, limit: int, rounds: int) -> None:
    """Alternate between only reading the training rows, and accumulating the sums that ridge needs."""
    import permafrost as pf
    from permafrost.heads.data import bytes_for_rows
    from permafrost.heads.out_of_core import gather_moments
    from permafrost.store.streaming import FeatureRows

    features = pf.open_features(path)
    rows = FeatureRows(features, features.rows("train"), memory_limit=bytes_for_rows(features, limit))

    def read() -> None:
        for _ in rows.blocks():
            pass

    def side(work: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            forget(path)
            return common.timed(work)[0]

        return run

    ways = {"read": side(read), "ridge": side(lambda: gather_moments(rows, np.ones(CLASSES), "standard"))}
    seconds = common.take_turns(ways, rounds)
    for way, values in seconds.items():
        print(f"{way}: {common.spread([rows.nbytes / 1e6 / value for value in values], '.0f')} MB per second")
    fraction = common.ratios(seconds["read"], seconds["ridge"])
    print(f"ridge, fraction of the speed of reading alone: {common.spread(fraction)}")


def warm_up(path: Path, **options: Any) -> None:
    """Fit to a few rows, also from disk, and release the memory."""
    import permafrost as pf
    from permafrost.store.feature_set import FeatureSet

    features = pf.open_features(path)
    content = features.content
    width = int(np.prod(features.shape))
    limit = max(40_000_000, 7 * 8 * width**2)  # Ridge's own matrices must fit too.
    rows = np.linspace(0, len(features) - 1, min(len(features), limit // (8 * width))).astype(int)
    few = dataclasses.replace(
        content,
        names=[content.names[row] for row in rows],
        digests=content.digests[rows],
        labels=content.labels[rows],
        splits=content.splits[rows],
        places=content.places[rows],
    )
    with tempfile.TemporaryDirectory() as scratch:
        pf.fit_head(FeatureSet(path, few), out=Path(scratch, "run"), memory_limit=limit, progress=False, **options)
    del features, content, few
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def fit(path: Path, limit: int, head: str, epochs: int) -> None:
    """Fit a head and print its memory and time."""
    import permafrost as pf

    options = {"head": head, "epochs": epochs, "batch_size": 1024}
    warm_up(path, **options)
    forget(path)
    with tempfile.TemporaryDirectory() as scratch, Peak() as peak:
        run = pf.fit_head(path, out=Path(scratch, "run"), memory_limit=limit, progress=False, **options)
    found = {"head": head, "peak_MB": round(peak.above_start / 1e6), "limit_MB": round(limit / 1e6)}
    found |= {"peak_fraction_of_limit": round(peak.above_start / limit, 2), "seconds": run.about["seconds"]}
    found |= {"fitted": run.about["details"]["fitted"], "test_accuracy": run.metrics["test"]["accuracy"]}
    print(json.dumps(found))


def order(path: Path, limit: int, batch: int = 256) -> None:
    """Print how random the shuffled order is: the spread of class fractions over batches, and distances on disk."""
    import permafrost as pf
    from permafrost.heads.data import bytes_for_rows
    from permafrost.store.streaming import FeatureRows, ShuffledRows

    features = pf.open_features(path)
    rows = FeatureRows(features, features.rows("train"), memory_limit=bytes_for_rows(features, limit))
    random = np.random.default_rng(0)

    def spread(drawn: np.ndarray) -> float:
        whole = rows.labels[drawn[: len(drawn) // batch * batch]].reshape(-1, batch)
        fractions = np.stack([(whole == label).mean(axis=1) for label in range(CLASSES)])
        return float(fractions.std(axis=1).mean())

    shuffled = ShuffledRows(rows).order(random)
    place = np.empty(len(rows), np.int64)
    place[rows.disk_order] = np.arange(len(rows))
    away = np.abs(np.diff(place[shuffled]))
    print(
        json.dumps(
            {
                "spread_random": spread(random.permutation(len(rows))),
                "spread_shuffled_by_blocks": spread(shuffled),
                "spread_unshuffled": spread(rows.disk_order),
                "distance_on_disk_of_neighbours": float(away.mean() / len(rows)),
                "distance_random": 1 / 3,
                "fraction_of_neighbours_from_one_chunk": float((away < 128).mean()),
            }
        )
    )


def main() -> None:
    from permafrost.units import parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "compare", "fit", "order"])
    parser.add_argument("set", type=Path)
    parser.add_argument("--gigabytes", type=float, default=8.2)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--memory-limit", default="1GB")
    parser.add_argument("--head", default="ridge")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    limit = parse_size(given.memory_limit)
    if given.what == "make":
        make(given.set, given.gigabytes, given.features)
    elif given.what == "compare":
        compare(given.set, limit, given.rounds)
    elif given.what == "fit":
        fit(given.set, limit, given.head, given.epochs)
    else:
        order(given.set, limit)


if __name__ == "__main__":
    main()
