"""`FeatureExtractor`: a scikit-learn transformer over paths or images, on the same store as `extract`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from permafrost.errors import ImageError, OptionError
from permafrost.extraction.extract import build_trunks_of, compute_features
from permafrost.extraction.options import DEFAULT_FOLDER, PipelineOptions, TrunkOptions
from permafrost.images.arrays.ranges import PixelRange, range_of
from permafrost.images.arrays.shapes import CHANNELS
from permafrost.images.dataset import Dataset
from permafrost.images.decoding import as_pixels
from permafrost.options import as_path
from permafrost.store.feature_set import STORE_FOLDER
from permafrost.trunk.options import DEFAULT_BASE

if TYPE_CHECKING:
    from permafrost.trunk.cutting import Trunk


class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn images into rows of features: the first step of a scikit-learn pipeline.

    Features are cached in a store and computed once per image, so a grid search over the later steps costs one
    extraction. There is little to learn: `fit` builds the trunk, and decides what the values of arrays mean.

    Args:
        base, weights, cut, pool, image_size, preprocessing, dtype, precision, engine, batch_size, workers: as for
            `extract`. Features that are not pooled are flattened.
        store: folder of the cache, like the folder of `out` in `extract`.

    Attributes:
        spec_: everything that a feature value depends on, a `TrunkSpec`.
        pixel_range_: what the values of the arrays mean that it was fitted on, a `PixelRange`; None if it was fitted on
            paths. Arrays of the same kind that are transformed later have the same range.
        n_features_out_: number of features per image.

    Examples:
        make_pipeline(FeatureExtractor(base="vgg16", pool="avg"), StandardScaler(), LogisticRegression()).fit(paths, y)
    """

    def __init__(
        self,
        *,
        base: str = DEFAULT_BASE,
        weights: str | None = None,
        cut: str | int | None = None,
        pool: str = "avg",
        image_size: int | tuple[int, int] | None = None,
        preprocessing: str | None = None,
        dtype: str = "float32",
        precision: str = "float32",
        engine: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        store: str | os.PathLike[str] = DEFAULT_FOLDER,
    ) -> None:
        self.base = base
        self.weights = weights
        self.cut = cut
        self.pool = pool
        self.image_size = image_size
        self.preprocessing = preprocessing
        self.dtype = dtype
        self.precision = precision
        self.engine = engine
        self.batch_size = batch_size
        self.workers = workers
        self.store = store

    def fit(self, X: Any, y: Any = None) -> FeatureExtractor:  # noqa: ARG002, N803 - scikit-learn's signature
        """Build the trunk.

        Args:
            X: images, as for `transform`; files are not read.
            y: ignored.

        Raises:
            PermafrostError: an unknown base, cut or option; weights that do not fit; no images, or arrays whose values
                have no or no single meaning.
        """
        _, self.pixel_range_ = _dataset(X)
        spec = self._build().spec
        self.spec_ = spec
        self.n_features_out_ = int(np.prod(spec.shapes[0]))
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """Return the features of images; cached ones are not computed again.

        Args:
            X: n paths of files; or n arrays (h, w, 3) of any sizes, or one array of them; values from 0 to 255, or of
                another range that all of them together make clear (`images.arrays.ranges`).

        Returns:
            (n, n_features_out_) float32, in the order of `X`.

        Raises:
            ImageError: an image cannot be decoded; it is named.
            DatasetError: the values of arrays have no or no single meaning, or another range than when it was fitted.
        """
        check_is_fitted(self, "spec_")
        dataset, _ = _dataset(X, fitted=self.pixel_range_)
        features = compute_features(
            dataset,
            self._build(),
            as_path(self.store, "a cache") / STORE_FOLDER,
            PipelineOptions(engine=self.engine, batch_size=self.batch_size, workers=self.workers, progress=False),
        )
        return features.reshape(len(dataset), -1)

    def __sklearn_tags__(self) -> Any:
        """Return the tags for scikit-learn: takes images or their paths, needs no labels."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the trunk, which is built again if needed."""
        return {key: value for key, value in super().__getstate__().items() if key != "_trunk"}

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def _build(self) -> Trunk:
        settings = {key: value for key, value in self.get_params().items() if key != "store"}
        built: tuple[dict[str, Any], Trunk] | None = getattr(self, "_trunk", None)
        if built is None or built[0] != settings:
            names = {field.name for field in dataclasses.fields(TrunkOptions)}
            options = TrunkOptions(**{key: value for key, value in settings.items() if key in names})
            (trunk,) = build_trunks_of(options)
            self._trunk = built = settings, trunk
        return built[1]


def _dataset(images: Any, *, fitted: PixelRange | None = None) -> tuple[Dataset, PixelRange | None]:
    """Return images as a dataset without labels, and what the values of arrays mean.

    Args:
        images: paths or arrays.
        fitted: a range that was decided before.

    Raises:
        OptionError: they are neither paths nor arrays.
        DatasetError: the values of arrays have no or no single meaning, or do not fit `fitted`.
        ImageError: an array is not an image; it is named.
    """
    if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Sequence | np.ndarray):
        # A column of a data frame is neither, but can be converted.
        if not hasattr(images, "__array__"):
            raise OptionError(
                "not a list of images", expected="paths, or arrays (h, w, 3)", found=type(images).__name__
            )
        images = np.atleast_1d(np.asarray(images))
    if len(images) == 0:
        raise OptionError("no images", expected="at least one", found="none")
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] in CHANNELS:
        raise OptionError("one image, not a list of images", found=f"shape {images.shape}", do="give X[None]")
    items = [item[0] if isinstance(item, np.ndarray) and item.shape == (1,) else item for item in images]
    names: tuple[str, ...] = tuple(f"X[{number}]" for number in range(len(items)))
    arrays, pixels = None, None
    if all(isinstance(item, str | os.PathLike) for item in items):
        names = tuple(os.fspath(item) for item in items)
    elif all(isinstance(item, np.ndarray) for item in items):
        pixels = range_of("X", items, fitted=fitted)
        arrays = tuple(_pixels(name, item, pixels) for name, item in zip(names, items, strict=True))
    else:
        kinds = ", ".join(sorted({type(item).__name__ for item in items}))
        raise OptionError("not a list of images", expected="paths, or arrays (h, w, 3)", found=kinds)
    nothing = (None,) * len(names)
    dataset = Dataset(root="", names=names, labels=(0,) * len(names), splits=nothing, class_names=("",), arrays=arrays)
    return dataset, pixels


def _pixels(name: str, array: np.ndarray, pixels: PixelRange) -> np.ndarray:
    try:
        return as_pixels(array, pixels)
    except ImageError as error:
        raise ImageError(f"bad image {name}: {error}") from error
