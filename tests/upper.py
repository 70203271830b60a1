"""Fixtures with features and a run, made once per session, and copies that a test may change."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import permafrost as pf
from helpers import compiling
from permafrost.engines.keras_engine import KerasEngine
from permafrost.model import run as runs
from permafrost.model.run import Run
from permafrost.store.feature_set import FeatureSet


@pytest.fixture(scope="session")
def features(split_photos: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """Pooled features (16,) of `split_photos`: 18 images for training, 9 for validation, 9 for test."""
    out = tmp_path_factory.mktemp("pooled") / "features" / "split-photos.h5"
    return pf.extract(split_photos, base=str(tiny_base), pool="avg", out=out, progress=False)


@pytest.fixture(scope="session")
def maps(split_photos: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """Features (8, 8, 16) of `split_photos`. Do not change it."""
    out = tmp_path_factory.mktemp("maps") / "features" / "split-photos.h5"
    return pf.extract(split_photos, base=str(tiny_base), out=out, progress=False)


@pytest.fixture(scope="session")
def run(features: FeatureSet, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a logistic head on `features`, fitted as by a user. Do not change it."""
    return pf.fit_head(features, "logistic", out=tmp_path_factory.mktemp("runs") / "first", progress=False)


@pytest.fixture(scope="session")
def sloppy_run(features: FeatureSet, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose head is regularised too strongly, so that further training must help. Do not change it."""
    out = tmp_path_factory.mktemp("runs") / "sloppy"
    return pf.fit_head(features, "logistic", regularization=1e-3, out=out, progress=False)


@pytest.fixture
def own_run(run: Run, tmp_path: Path) -> Path:
    """A copy of the run's folder that a test may change."""
    return Path(shutil.copytree(run.folder, tmp_path / "own-run"))


@pytest.fixture
def own_features(features: FeatureSet, tmp_path: Path) -> FeatureSet:
    """A copy of the set and its store that a test may change."""
    folder, store = tmp_path / "own-features", features.store.folder
    # Only its own store, because fine-tuning adds others beside it.
    shutil.copytree(store, folder / store.relative_to(features.path.parent))
    shutil.copy(features.path, folder)
    return pf.open_features(folder / features.path.name)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Switch off compiling and drawing, which take most of the time for tiny models; other tests cover both."""
    for name in ("curves_png", "confusion_png"):
        monkeypatch.setattr(runs, name, lambda *_: b"\x89PNG\r\n\x1a\n")
    with compiling(False):
        yield


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """The numbers of images in the batches that engines run from now on."""
    counts: list[int] = []
    run = KerasEngine.__call__

    def counted(self, pixels):
        counts.append(len(pixels))
        return run(self, pixels)

    monkeypatch.setattr(KerasEngine, "__call__", counted)
    return counts


@pytest.fixture
def take(tiny_base, tmp_path):
    """Run `extract` with the tiny base on Keras and average pooling, into the test's folder."""

    def take(data, **options) -> FeatureSet:
        out = tmp_path / "features" / "set.h5"
        options = {"base": str(tiny_base), "pool": "avg", "out": out, "engine": "keras", **options}
        return pf.extract(data, progress=False, **options)

    return take
