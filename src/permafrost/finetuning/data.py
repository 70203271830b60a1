"""What fine-tuning trains on: kept features at the frontier, or images through the whole model; and which of the two.

Kept features cost a run of the frozen part for each image and view once, and room on disk; the fused way, as ordinary
fine-tuning goes, costs that run in every epoch, and no room.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from permafrost.errors import ImageError, RunError
from permafrost.extraction.cache import FeatureCache
from permafrost.extraction.extract import try_rate
from permafrost.extraction.originals import Originals, max_pixels_of
from permafrost.extraction.pipeline import PipelineOptions, cached_conversion, engine_for, run_images
from permafrost.finetuning.frontier import Frontier
from permafrost.images.augmentation import Views
from permafrost.images.splits import SPLITS
from permafrost.training.loop import Examples
from permafrost.training.options import TrainingOptions
from permafrost.trunk.cutting import save_trunk
from permafrost.units import size

if TYPE_CHECKING:
    from permafrost.engines.conversion import ConvertedModel
    from permafrost.store.feature_set import FeatureSet

CACHED_BYTES: Final = 2 * 2**30
"""What is trained on, features or decoded images, is held in memory as long as it takes no more than this."""

DISK_MARGIN: Final = 0.9
"""Of the free disk, the share that kept features may take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keeping:
    """How a stage of fine-tuning gets what it trains on, and why.

    Attributes:
        how: `kept` or `fused`.
        why: the reason, for people.
        crossing: the layers whose output crosses the cut.
        shapes: of each of their outputs.
        rows: images and views whose features would be kept.
        missing: of those, how many are not kept yet.
        bytes: that the features of all take on disk, uncompressed.
        seconds: that computing the missing ones takes, at the speed of one batch tried; 0 where nothing is kept.
        store: where they would be kept.
    """

    how: str
    why: str
    crossing: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    rows: int
    missing: int
    bytes: int
    seconds: float
    store: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which images and views fine-tuning trains on and looks at.

    Attributes:
        features: the set that they are of.
        rows: of each split.
        views: which views of training images.
    """

    features: FeatureSet
    rows: dict[str, np.ndarray]
    views: Views

    @property
    def kept_views(self) -> int:
        """How many views of each training image can be kept: none where each epoch has new ones."""
        return self.views.count or 0

    def views_by_row(self) -> dict[int, range]:
        """For each image that is wanted its views."""
        train = {int(row): range(max(self.kept_views, 1)) for row in self.rows["train"]}
        return {int(row): range(1) for split in ("validation", "test") for row in self.rows[split]} | train


class KeptData:
    """Features at the frontier, kept in a store and computed where they are missing.

    Args:
        wanted: of what.
        frontier: where the model is cut.
        parent: the folder that holds stores.
        options: how missing ones are computed.
    """

    def __init__(self, wanted: Wanted, frontier: Frontier, parent: Path, options: PipelineOptions) -> None:
        self._wanted, self._frontier = wanted, frontier
        self._options = dataclasses.replace(options, fail_on_bad=True, max_pixels=max_pixels_of(wanted.features))
        self._originals = Originals(wanted.features)
        augmentation = "" if wanted.views.count is None else wanted.views.rule
        self.target = FeatureCache(frontier.trunk, parent, augmentation)
        self._digests = [row.tobytes() for row in wanted.features.digests()]
        self._views = wanted.views_by_row()
        self._arrays: dict[tuple[str, int], tuple[np.ndarray, ...]] = {}
        self._converted: ConvertedModel | None = None

    def missing(self) -> dict[int, list[int]]:
        """For each image of which views are not kept those views."""
        wanted = [(row, view) for row, views in self._views.items() for view in views]
        kept = self.target.has([(self._digests[row], view) for row, view in wanted])
        missing: dict[int, list[int]] = {}
        for (row, view), was_kept in zip(wanted, kept, strict=True):
            if not was_kept:
                missing.setdefault(row, []).append(view)
        return missing

    def plan(self, training: TrainingOptions, cache_limit: int) -> Keeping:
        """Whether to keep, what it takes, and why."""
        missing = len({(self._digests[row], view) for row, views in self.missing().items() for view in views})
        rows = sum(len(views) for views in self._views.values())
        keeping = Keeping(
            how="kept",
            why="",
            crossing=self._frontier.crossing,
            shapes=self.target.spec.shapes,
            rows=rows,
            missing=missing,
            bytes=rows * self.target.row_bytes,
            seconds=0.0,
            store=str(self.target.folder),
        )
        how, why = self._decide(keeping, training, cache_limit)
        seconds = missing / self._rate() if missing and how == "kept" else 0.0
        return dataclasses.replace(keeping, how=how, why=why, seconds=seconds)

    def compute(self) -> None:
        """Compute and keep what is missing.

        Raises:
            RunError: an image is gone, or is no longer what it was; it is named.
        """
        missing = self.missing()
        rows = np.array(sorted(missing), np.int64)
        features = self._wanted.features
        if len(rows):
            try:
                outcome = run_images(
                    self._originals.dataset(rows),
                    [self.target],
                    self._options,
                    augmentation=self._wanted.views.augmentation,
                    views_of=lambda index, _: missing[int(rows[index])],
                    converted=self._converted,
                )
            except ImageError as error:
                raise cannot_be_trained_on(features, error.what) from error
            for index, digest in outcome.images:
                if digest != self._digests[rows[index]]:
                    path = features.paths()[rows[index]]
                    raise cannot_be_trained_on(features, f"{path} has changed since its features were kept")
            self._converted = None
        save_trunk(self._frontier.trunk, self.target.folder)

    def examples(self, split: str) -> Examples:
        """The features of a split, those of training images by turns of their views."""
        views = self._wanted.views
        return Examples(
            self._wanted.features.labels()[self._wanted.rows[split]],
            self._loader(split, 0),
            of_epoch=(lambda epoch: self._loader(split, views.of_epoch(epoch)))
            if split == "train" and views.by_turns
            else None,
        )

    def release(self) -> None:
        """Give back the memory that features take; they are read again where they are asked for again."""
        self._arrays.clear()

    def rows(self, rows: np.ndarray) -> Any:
        """The features of the images with these indices, as a model takes them."""
        return _as_input(self.target.gather([self._digests[row] for row in rows]))

    def _loader(self, split: str, view: int) -> Any:
        digests = [self._digests[row] for row in self._wanted.rows[split]]

        def load(numbers: np.ndarray) -> Any:
            if not self._fits_memory():
                return _as_input(self.target.gather([digests[number] for number in numbers], view))
            if (split, view) not in self._arrays:
                self._arrays[split, view] = self.target.gather(digests, view)
            return _as_input(tuple(tensor[numbers] for tensor in self._arrays[split, view]))

        return load

    def _fits_memory(self) -> bool:
        values = sum(math.prod(shape) for shape in self.target.spec.shapes)
        return 4 * values * sum(len(views) for views in self._views.values()) <= CACHED_BYTES

    def _decide(self, keeping: Keeping, training: TrainingOptions, cache_limit: int) -> tuple[str, str]:
        rows = self._wanted.rows
        if self._wanted.views.count is None:
            return "fused", "views are made anew in each epoch"
        if not self._frontier.frozen:
            return "fused", "nothing below the cut has weights"
        if keeping.bytes > cache_limit:
            return "fused", f"its features take {size(keeping.bytes)}, more than the cache limit of {size(cache_limit)}"
        missing_bytes, free = keeping.missing * self.target.row_bytes, _free_bytes(self.target.folder)
        if missing_bytes > free * DISK_MARGIN:
            return "fused", f"its features take {size(missing_bytes)}, and {size(free)} of the disk are free"
        epoch = min(len(rows["train"]), training.batch_size * (training.steps_per_epoch or 2**31))
        # Once before training and once after it, images of all splits are looked at.
        around = sum(len(rows[split]) for split in SPLITS) + len(rows["validation"]) + len(rows["test"])
        fused = training.epochs * (epoch + len(rows["validation"])) + around
        counts = f"{keeping.missing:,} times, training without keeping {fused:,} times in {training.epochs} epochs"
        if keeping.missing > fused:
            return "fused", f"keeping runs the frozen part {counts}"
        return "kept", f"keeping runs the frozen part {counts}" if keeping.missing else "all of it is kept already"

    def _rate(self) -> float:
        engine = engine_for([self.target], self._options, cached_conversion([self.target]))
        # Not the engine itself: it is held against Keras on its first batch, which is to be one of images.
        self._converted = engine.converted
        return try_rate(engine, self.target.spec.image_size)


class ImageData:
    """Images as the trunk sees them, read when they are first asked for, and views of them.

    Args:
        wanted: which.
        threads: that read, decode and augment.
    """

    def __init__(self, wanted: Wanted, threads: Executor) -> None:
        self._wanted, self._threads = wanted, threads
        self._originals = Originals(wanted.features)
        self._digests = wanted.features.digests()
        whole = len(wanted.features) * math.prod(wanted.features.spec.image_size) * 3
        self._cache: dict[int, np.ndarray] | None = {} if whole <= CACHED_BYTES else None

    def examples(self, split: str) -> Examples:
        """The images of a split; of training images the view of each epoch."""
        rows, views = self._wanted.rows[split], self._wanted.views
        return Examples(
            self._wanted.features.labels()[rows],
            lambda numbers: self.rows(rows[numbers]),
            of_epoch=(lambda epoch: lambda numbers: self.rows(rows[numbers], views.of_epoch(epoch)))
            if split == "train" and views.by_turns
            else None,
        )

    def rows(self, rows: np.ndarray, view: int = 0) -> np.ndarray:
        """One view of the images with these indices: (n, h, w, 3) float32, 0 to 255.

        Raises:
            RunError: an image is gone, or is no longer what it was; it is named.
        """

        def load(row: int) -> np.ndarray:
            augmentation = self._wanted.views.augmentation
            return augmentation.view(self._pixels(row), self._digests[row].tobytes(), view)

        return np.stack(list(self._threads.map(load, rows.tolist()))).astype(np.float32)

    def _pixels(self, row: int) -> np.ndarray:
        if self._cache is not None and row in self._cache:
            return self._cache[row]
        features = self._wanted.features
        try:
            pixels = self._originals.pixels(row)
        except ImageError as error:
            raise cannot_be_trained_on(features, str(error)) from error
        if self._cache is not None:
            self._cache[row] = pixels
        return pixels


def cannot_be_trained_on(features: FeatureSet, reason: str) -> RunError:
    """The error for an image that is gone, or is no longer what it was."""
    return RunError(f"an image of {features.path} cannot be trained on: {reason}", do="extract and fit the head again")


def _as_input(tensors: Sequence[np.ndarray]) -> Any:
    return tuple(tensors) if len(tensors) > 1 else tensors[0]


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
