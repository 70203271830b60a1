"""Paths of checkpoints: files beside the new run, named by a hash of everything that determines the result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import keras

from permafrost.finetuning.request import Request
from permafrost.trunk.spec import canonical_json

CHECKPOINT_PREFIX: Final = ".checkpoint-"


def checkpoint_path(request: Request, stages: Sequence[int], strategies: Sequence[str]) -> Path:
    """Return the checkpoint file of a stage.

    Args:
        request: the request.
        stages: the lowest unfrozen layers of this stage and of those before it.
        strategies: their strategies, `cached` or `recompute`.
    """
    decisive = {
        "model": request.run.about["model_sha256"],
        "features": request.selection.features.digest,
        "stages": list(stages),
        "strategies": list(strategies),
        "options": request.settings(),
        "backend": keras.backend.backend(),
    }
    key = hashlib.sha256(canonical_json(decisive)).hexdigest()[:16]
    return request.folder.parent / f"{_prefix(request.folder)}{key}.npz"


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a finished run, including those of other requests that were not finished."""
    for path in list(folder.parent.iterdir()):
        if path.name.startswith(_prefix(folder)):
            path.unlink(missing_ok=True)


def _prefix(folder: Path) -> str:
    # The folder's name is hashed: with a prefix and a suffix it might be too long for a file name.
    return f"{CHECKPOINT_PREFIX}{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:8]}-"
