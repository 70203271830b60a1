"""Helpers of the tests that verify and prune a folder of feature sets."""

from __future__ import annotations

from pathlib import Path

from permafrost.store.feature_set import FeatureSet
from samples import spec_with

ENGINE = "keras/tensorflow"
VERSION_1 = Path(__file__).parent / "formats" / "version-1"
OTHER_SPEC = spec_with(weights="c" * 64)


def shard_path(features: FeatureSet, number: int = 0) -> Path:
    """Return the path of a shard with rows of a set."""
    return features.store.folder / features.content.shards[number]


def flip(path: Path, place: int = -1) -> None:
    """Change one bit of a file, in its last byte by default."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
