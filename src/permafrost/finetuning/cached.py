"""Train on cached features: compute those that are missing, and load them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from permafrost.errors import ImageError
from permafrost.extraction.cache import FeatureCache
from permafrost.extraction.options import PipelineOptions
from permafrost.extraction.originals import Originals, max_pixels_of
from permafrost.extraction.pipeline import cached_conversion, engine_for, run_images
from permafrost.extraction.plan import measure_rate
from permafrost.finetuning.selection import ImageSelection, Load, fits_memory, unusable_image
from permafrost.machine import available_memory
from permafrost.store.row_index import place_rows
from permafrost.store.streaming import SHUFFLE_BYTES, ShuffledRows
from permafrost.training.loop import Examples
from permafrost.trunk.cutting import save_trunk

if TYPE_CHECKING:
    from permafrost.engines.conversion import ConvertedModel


class CachedFeatures:
    """Loads the features at the cut, all of which are cached. They are held in memory if they fit.

    Args:
        selection: the images and views.
        cache: the cache that holds the features.
    """

    def __init__(self, selection: ImageSelection, cache: FeatureCache) -> None:
        self._selection, self._cache = selection, cache
        self._digests = selection.digests
        self._bytes = _row_bytes(cache) * selection.count()
        self._arrays: dict[tuple[str, int], tuple[np.ndarray, ...]] = {}

    def examples(self, split: str) -> Examples:
        """Return the features of a split."""
        in_memory = fits_memory(self._bytes)
        examples = self._selection.examples(split, self._loader(split, in_memory))
        if in_memory or split != "train":
            return examples
        shuffled = _ShuffledViews(self._cache, [self._digests[row] for row in self._selection.rows[split]])
        views = self._selection.views
        return dataclasses.replace(
            examples, of_epoch=lambda epoch: shuffled.of_view(views.of_epoch(epoch)), order=shuffled.order
        )

    def rows(self, rows: np.ndarray) -> Any:
        """Return the features of (k,) rows of the set as the model's input."""
        return _model_input(self._cache.gather([self._digests[row] for row in rows]))

    def release(self) -> None:
        """Free the memory; the features are read again when needed."""
        self._arrays.clear()

    def _loader(self, split: str, in_memory: bool) -> Callable[[int], Load]:
        digests = [self._digests[row] for row in self._selection.rows[split]]

        def of_view(view: int) -> Load:
            def load(numbers: np.ndarray) -> Any:
                if not in_memory:
                    return _model_input(self._cache.gather([digests[number] for number in numbers], view))
                if (split, view) not in self._arrays:
                    self._arrays[split, view] = self._cache.gather(digests, view)
                return _model_input(tuple(tensor[numbers] for tensor in self._arrays[split, view]))

            return load

        return of_view


class _CachedRows:
    """Cached features of one view of some images, in the form that `ShuffledRows` reads.

    Attributes:
        disk_order: (n,) int64, the numbers of the images in the order on disk.
        row_bytes: bytes that one image's features take in memory.
        memory_limit: maximum bytes of features in memory.
    """

    def __init__(self, cache: FeatureCache, digests: Sequence[bytes], view: int) -> None:
        self._cache, self._digests, self._view = cache, digests, view
        _, places = place_rows(cache.addresses(digests, view))
        self.disk_order = np.lexsort((places[:, 1], places[:, 0]))
        self.row_bytes = _row_bytes(cache)
        # This is rarely below `SHUFFLE_BYTES`, so that the order seldom depends on the free memory.
        self.memory_limit = min(SHUFFLE_BYTES, available_memory() // 2)

    def load(self, numbers: np.ndarray) -> Any:
        """Return the features of the images with these numbers (k,) as the model's input."""
        return _model_input(self._cache.gather([self._digests[number] for number in numbers], self._view))


class _ShuffledViews:
    """Reads training features in shuffled order if they do not fit in memory, one view per epoch.

    Args:
        cache: the cache that holds the features.
        digests: the SHA-256 of each image's content.
    """

    def __init__(self, cache: FeatureCache, digests: Sequence[bytes]) -> None:
        self._cache, self._digests = cache, digests
        self._view = -1
        self._rows: ShuffledRows | None = None

    def of_view(self, view: int) -> Load:
        """Switch to a view, and return the function that loads its features in the order drawn next."""
        if self._rows is None or view != self._view:
            self._rows, self._view = ShuffledRows(_CachedRows(self._cache, self._digests, view)), view
        return self._rows.load

    def order(self, random: np.random.Generator) -> np.ndarray:
        """Draw the order (n,) of a pass over the current view."""
        assert self._rows is not None, "an epoch's view is chosen before its order"
        return self._rows.order(random)


class FeatureComputation:
    """Computes the features at the cut that are not cached yet.

    Args:
        selection: the images and views.
        cache: the trunk below the cut, and the store of its features.
        options: how images are read and computed; the limit on pixels is the set's own.
    """

    def __init__(self, selection: ImageSelection, cache: FeatureCache, options: PipelineOptions) -> None:
        self._selection, self._cache = selection, cache
        self._options = dataclasses.replace(options, on_bad="fail", max_pixels=max_pixels_of(selection.features.about))
        self._digests = selection.digests
        self._converted: ConvertedModel | None = None

    def missing(self) -> dict[int, list[int]]:
        """Return the missing views of each row; rows without any are left out."""
        wanted = [(row, view) for row, views in self._selection.views_by_row().items() for view in views]
        cached = self._cache.has([(self._digests[row], view) for row, view in wanted])
        missing: dict[int, list[int]] = {}
        for (row, view), is_cached in zip(wanted, cached, strict=True):
            if not is_cached:
                missing.setdefault(row, []).append(view)
        return missing

    def count_missing(self) -> int:
        """Return how many images and views have to be computed; copies of an image count once."""
        return len({(self._digests[row], view) for row, views in self.missing().items() for view in views})

    def images_per_second(self) -> float:
        """Measure how fast the trunk runs, on one batch."""
        engine = engine_for([self._cache], self._options, cached_conversion([self._cache]))
        # Only its model is reused: `run` needs an engine that is checked against Keras on a batch of images.
        self._converted = engine.converted
        return measure_rate(engine, self._cache.spec.image_size)

    def run(self) -> None:
        """Compute what is missing and commit it.

        Raises:
            RunError: an image is gone or has changed; the message names it.
        """
        missing = self.missing()
        rows = np.array(sorted(missing), np.int64)
        features = self._selection.features
        if len(rows):
            try:
                result = run_images(
                    Originals(features).dataset(rows),
                    [self._cache],
                    self._options,
                    augmentation=self._selection.views.augmentation,
                    views_of=lambda index, _: missing[int(rows[index])],
                    converted=self._converted,
                )
            except ImageError as error:
                raise unusable_image(features, error.what) from error
            for image in result.images:
                if image.digest != self._digests[rows[image.index]]:
                    path = features.paths()[rows[image.index]]
                    raise unusable_image(features, f"{path} has changed since its features were cached")
            self._converted = None
        save_trunk(self._cache.trunk, self._cache.folder)


def _row_bytes(cache: FeatureCache) -> int:
    """Return the bytes that one image's features take in memory, in float32."""
    return 4 * sum(math.prod(shape) for shape in cache.spec.shapes)


def _model_input(tensors: tuple[np.ndarray, ...]) -> Any:
    return tensors if len(tensors) > 1 else tensors[0]
