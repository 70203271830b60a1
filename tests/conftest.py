"""Fixtures of the whole suite. What they give is small and always the same; see `samples`."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before Keras is imported: TensorFlow reads it once.

import shutil
from pathlib import Path

import pytest

import samples

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pictures and weights beside the project, where there is one."""
    if not SHARED.is_dir():
        pytest.skip(f"the folder of real pictures and weights is absent: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as a `.keras` file: 32 px, with a layer that scales its input. Not to be changed."""
    path = tmp_path_factory.mktemp("bases") / "tiny.keras"
    samples.tiny_model().save(path)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 18 pictures, one folder a class. Not to be changed."""
    return samples.write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def split_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 36 pictures, with `train`, `validation` and `test` folders. Not to be changed."""
    return samples.write_split_photos(tmp_path_factory.mktemp("data") / "split-photos")


@pytest.fixture
def own_photos(photos: Path, tmp_path: Path) -> Path:
    """A copy of `photos` that a test may change."""
    return Path(shutil.copytree(photos, tmp_path / "own-photos"))
