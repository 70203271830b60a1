"""Fixtures and helpers of the tests of fine-tuning."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import permafrost as pf
from helpers import named_weights, point_to
from permafrost.extraction.cache import FeatureCache
from permafrost.finetuning.finetune import FineTuning
from permafrost.finetuning.options import options_from

TINY = ["pixels_in", "scale", "stem", "stem_norm", "left", "right", "joined", "top"]
"""The layers of the tiny base, in their order."""

QUICK = {"epochs": 2, "learning_rate": 2e-3, "momentum": 0.9, "batch_size": 9, "patience": 0}
RECOMPUTE = {"cache_limit": 0}


def prepared(run, unfreeze="joined", **options) -> FineTuning:
    """A fine-tuning that has not run yet."""
    return FineTuning(run, options_from({**QUICK, "progress": False, "unfreeze": unfreeze, **options}))


@pytest.fixture
def tune(own_features, sloppy_run, tmp_path):
    """`finetune` of a copy of the sloppy run, on a copy of its features, into the test's own folder."""
    run = point_to(Path(shutil.copytree(sloppy_run.folder, tmp_path / "sloppy")), own_features)

    def tune(unfreeze="joined", name="tuned", **options):
        return pf.finetune(run, unfreeze, out=tmp_path / "runs" / name, progress=False, **(QUICK | options))

    tune.run = run
    return tune


@pytest.fixture
def ran(monkeypatch) -> list[int]:
    """The number of images and views that a trunk computes from now on, per commit."""
    counts: list[int] = []
    commit = FeatureCache.commit

    def counted(self, keys, tensors, engine):
        counts.append(len(keys))
        commit(self, keys, tensors, engine)

    monkeypatch.setattr(FeatureCache, "commit", counted)
    return counts


def same_weights(left, right, tolerance: float = 0.0) -> bool:
    left, right = named_weights(left.model), named_weights(right.model)
    return all(np.abs(left[name] - right[name]).max() <= tolerance for name in left)


def history_of(run) -> list[dict[str, float]]:
    lines = (run.folder / "history.csv").read_text().splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, map(float, line.split(",")), strict=True)) for line in lines[1:]]
