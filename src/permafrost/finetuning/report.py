"""The record of a fine-tuning in `run.json`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from permafrost.finetuning.plan import CachePlan
from permafrost.finetuning.request import Request
from permafrost.finetuning.stages import Stage
from permafrost.heads.data import left_out_notes
from permafrost.images.splits import SPLITS
from permafrost.model.run import features_record
from permafrost.training.loop import TrainingResult
from permafrost.training.metrics import paired_difference


def run_record(
    request: Request,
    stages: Sequence[dict[str, Any]],
    before: np.ndarray,
    after: np.ndarray,
) -> dict[str, Any]:
    """Return the record of a fine-tuning, without parity and seconds.

    Args:
        request: the request.
        stages: the result of `stage_record` for each stage.
        before: probabilities of the run's model on test images, (n, classes).
        after: the same for the new model.
    """
    run, selection = request.run, request.selection
    return {
        "kind": "finetune",
        "head": run.about["head"],
        "passes_gradient": run.about["passes_gradient"],
        "started_from": os.path.abspath(run.folder),
        "images_missing": run.about["images_missing"],
        "options": request.settings(),
        "unfrozen": {key: stages[-1][key] for key in ("from", "index", "layers")},
        "stages": list(stages),
        "details": {
            "monitor": stages[0]["monitor"],
            "before": stages[0]["before"],
            "after": stages[-1]["after"],
            "improved": any(stage["improved"] for stage in stages),
            "epochs": sum(stage["epochs"] for stage in stages),
            "diverged": any(stage["diverged"] for stage in stages),
        },
        "notes": left_out_notes(selection.features, selection.rows),
        "before": {split: _summary(run.metrics.get(split, {})) for split in SPLITS},
        "test_difference": paired_difference(selection.labels("test"), before, after),
        **features_record(selection.features, request.folder),
    }


def stage_record(
    stage: Stage, plan: CachePlan, result: TrainingResult, layers: Sequence[str], monitor: str
) -> dict[str, Any]:
    """Return the record of a stage in `run.json`."""
    return {
        "from": layers[stage.lowest],
        "index": stage.lowest,
        "layers": len(layers) - stage.lowest,
        "plan": dataclasses.asdict(plan),
        "monitor": monitor,
        "before": result.start_value,
        "after": result.best_value,
        "improved": result.improved,
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "diverged": result.diverged,
    }


def _summary(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: metrics[key] for key in ("accuracy", "balanced_accuracy", "log_loss", "n") if key in metrics}
