"""`FeatureExtractor`: a scikit-learn transformer over paths or images, on the same store as `extract`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from permafrost.errors import OptionError
from permafrost.extraction.extract import DEFAULT_FOLDER, build_trunks_of, compute_features
from permafrost.extraction.pipeline import PipelineOptions
from permafrost.images.dataset import Dataset
from permafrost.store.feature_set import STORE_FOLDER

if TYPE_CHECKING:
    from permafrost.trunk.cutting import Trunk


class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images in, one row of features an image out: the first step of a scikit-learn pipeline.

    Features are kept in the store below `store` and computed once an image, so a grid search over what comes after
    costs one extraction. There is nothing to learn: `fit` builds the trunk and looks at no image.

    Args:
        base, weights, cut, pool, image_size, preprocessing, dtype, precision, engine, batch_size, workers: as for
            `extract`. Features that are not pooled are flattened.
        store: the folder in which features are kept.

    Attributes:
        spec_: what decides the features, a `TrunkSpec`.
        n_features_out_: how many there are.

    Examples:
        make_pipeline(FeatureExtractor(base="vgg16", pool="avg"), StandardScaler(), LogisticRegression()).fit(paths, y)
    """

    def __init__(
        self,
        *,
        base: str = "mobilenet_v2",
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
            X: images, as for `transform`; only their form is looked at.
            y: not used.

        Raises:
            PermafrostError: an unknown base, cut or option; weights that do not fit; no images.
        """
        _dataset(X)
        spec = self._build().spec
        self.spec_ = spec
        self.n_features_out_ = int(np.prod(spec.shapes[0]))
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """Features of images; those that are kept already are not computed.

        Args:
            X: n paths of files; or n arrays (h, w, 3), numbers from 0 to 255, of any sizes, or one array of them.

        Returns:
            (n, n_features_out_) float32, in the order of `X`.

        Raises:
            ImageError: an image that cannot be decoded; it is named.
        """
        check_is_fitted(self, "spec_")
        dataset = _dataset(X)
        features = compute_features(
            dataset,
            self._build(),
            Path(self.store) / STORE_FOLDER,
            PipelineOptions(engine=self.engine, batch_size=self.batch_size, workers=self.workers, progress=False),
        )
        return features.reshape(len(dataset), -1)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn should know: takes images or their paths, needs no labels."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The state without the trunk, which is built again when it is needed."""
        return {key: value for key, value in super().__getstate__().items() if key != "_trunk"}

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def _build(self) -> Trunk:
        settings = {key: value for key, value in self.get_params().items() if key != "store"}
        built: tuple[dict[str, Any], Trunk] | None = getattr(self, "_trunk", None)
        if built is None or built[0] != settings:
            (trunk,) = build_trunks_of(
                self.base,
                self.weights,
                [self.cut],
                pool=self.pool,
                size=self.image_size,
                preprocessing=self.preprocessing,
                dtype=self.dtype,
                precision=self.precision,
            )
            self._trunk = built = settings, trunk
        return built[1]


def _dataset(images: Any) -> Dataset:
    """Images as a dataset without labels.

    Raises:
        OptionError: neither paths nor images.
    """
    if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Sequence | np.ndarray):
        # A column of paths in a data frame is neither, and has a form that is.
        if not hasattr(images, "__array__"):
            raise OptionError(
                "not a list of images", expected="paths, or arrays (h, w, 3)", found=type(images).__name__
            )
        images = np.asarray(images)
    if len(images) == 0:
        raise OptionError("no images", expected="at least one", found="none")
    items = [item[0] if isinstance(item, np.ndarray) and item.shape == (1,) else item for item in images]
    if all(isinstance(item, str | os.PathLike) for item in items):
        names, arrays = tuple(os.fspath(item) for item in items), None
    elif all(isinstance(item, np.ndarray) for item in items):
        names, arrays = tuple(f"X[{number}]" for number in range(len(items))), tuple(items)
    else:
        kinds = ", ".join(sorted({type(item).__name__ for item in items}))
        raise OptionError("not a list of images", expected="paths, or arrays (h, w, 3)", found=kinds)
    nothing = (None,) * len(names)
    return Dataset(root="", names=names, labels=(0,) * len(names), splits=nothing, class_names=("",), arrays=arrays)
