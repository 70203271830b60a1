"""Decide whether to cache the features at the cut, or to recompute them in each epoch.

Caching runs the trunk once per image and view, and takes disk space. Recomputing runs it in every epoch, without
disk space. Both give the same model.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Final

from permafrost.finetuning.options import FineTuneOptions
from permafrost.finetuning.selection import ImageSelection
from permafrost.finetuning.stages import Stage
from permafrost.images.splits import SPLITS
from permafrost.training.options import TrainingOptions
from permafrost.units import size

CACHED: Final = "cached"
RECOMPUTE: Final = "recompute"

DISK_FRACTION: Final = 0.9
"""The fraction of the free disk space that cached features may take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachePlan:
    """A decision on how a stage gets the features at the cut.

    Attributes:
        strategy: `cached` or `recompute`.
        reason: the reason, in words.
        crossing: the layers whose outputs cross the cut.
        shapes: the shapes of these outputs.
        rows: number of images and views to train on and evaluate.
        missing: number of these that are not cached yet.
        bytes: size of the features of all rows on disk, uncompressed.
        seconds: estimated time to compute the missing ones; 0 if features are not cached.
        store: the folder of the features.
    """

    strategy: str
    reason: str
    crossing: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    rows: int
    missing: int
    bytes: int
    seconds: float
    store: str


def plan_stage(stage: Stage, selection: ImageSelection, options: FineTuneOptions) -> CachePlan:
    """Plan a stage, without writing anything."""
    rows, missing = selection.count(), stage.computation.count_missing()
    strategy, reason = _decide(stage, selection, options, rows=rows, missing=missing)
    measured = missing and strategy == CACHED
    return CachePlan(
        strategy=strategy,
        reason=reason,
        crossing=stage.frontier.crossing,
        shapes=stage.cache.spec.shapes,
        rows=rows,
        missing=missing,
        bytes=rows * stage.cache.row_bytes,
        seconds=missing / stage.computation.images_per_second() if measured else 0.0,
        store=str(stage.cache.folder),
    )


def _decide(
    stage: Stage, selection: ImageSelection, options: FineTuneOptions, *, rows: int, missing: int
) -> tuple[str, str]:
    """Return the strategy and the reason for it."""
    if selection.views.count is None:
        return RECOMPUTE, "each epoch has new views"
    if not stage.frontier.frozen:
        return RECOMPUTE, "no layer below the cut has weights"
    needed, limit = rows * stage.cache.row_bytes, options.cache_bytes
    if needed > limit:
        return RECOMPUTE, f"the features take {size(needed)}, more than the cache limit of {size(limit)}"
    new, free = missing * stage.cache.row_bytes, free_bytes(stage.cache.folder)
    if new > free * DISK_FRACTION:
        return RECOMPUTE, f"the features take {size(new)}, and the disk has {size(free)} free"
    if not missing:
        return CACHED, "all features are cached already"
    runs, epochs = recomputed_images(selection, options.training), options.training.epochs
    reason = f"caching runs the trunk on {missing:,} images, recomputing on {runs:,} in {epochs} epochs"
    return (RECOMPUTE if missing > runs else CACHED), reason


def recomputed_images(selection: ImageSelection, training: TrainingOptions) -> int:
    """Return the number of images that the trunk runs on if features are recomputed."""
    counts = {split: len(selection.rows[split]) for split in SPLITS}
    epoch = counts["train"]
    if training.steps_per_epoch:
        epoch = min(epoch, training.batch_size * training.steps_per_epoch)
    # The model is evaluated on validation and test images before training, and on all images after it.
    around = sum(counts.values()) + counts["validation"] + counts["test"]
    return training.epochs * (epoch + counts["validation"]) + around


def free_bytes(folder: Path) -> int:
    """Return the free space in bytes on the disk of a folder, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
