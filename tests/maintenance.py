"""Fixtures and helpers of the tests that verify and prune a folder of feature sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from permafrost.store.feature_set import FeatureSet
from samples import make_set, spec_with

ENGINE = "keras/tensorflow"
VERSION_1 = Path(__file__).parent / "formats" / "version-1"
OTHER_SPEC = spec_with(weights="c" * 64)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of the sets, not made yet."""
    return tmp_path / "features"


@pytest.fixture
def features(folder) -> FeatureSet:
    """A set with rows in two shards, in `folder`."""
    return make_set(folder, 0, 1)


def shard_path(features: FeatureSet, number: int = 0) -> Path:
    """Return the path of a shard with rows of a set."""
    return features.store.folder / features.content.shards[number]


def flip(path: Path, place: int = -1) -> None:
    """Change one bit of a file, in its last byte by default."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
