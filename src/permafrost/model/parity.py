"""Export a model and check that it agrees with the head on cached features."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from permafrost.engines.checked import TOLERANCE as ENGINE_TOLERANCE
from permafrost.engines.checked import largest_difference
from permafrost.engines.keras_engine import KerasEngine
from permafrost.errors import ImageError, ParityError
from permafrost.extraction.originals import Originals
from permafrost.images.resizing import resize
from permafrost.model.assembly import export_model, pixels_of
from permafrost.model.interface import inspect
from permafrost.store.feature_set import FeatureSet
from permafrost.training.loop import predict_arrays
from permafrost.trunk.bases import load_model_file
from permafrost.trunk.graph import tensors_of
from permafrost.trunk.run_base import MODEL_FILE
from permafrost.trunk.spec import TrunkSpec

PARITY_IMAGES: Final = 64
"""The maximum number of images to compare."""

SYNTHETIC_IMAGES: Final = 8
"""The number of random images to compare if none of the dataset's can be read."""

TOLERANCE: Final = 1e-4
"""The maximum difference between two probabilities."""

REDUCED_TOLERANCE: Final = 3e-2
"""The same for trunks that compute in bfloat16 and features stored as float16: 8 and 11 bits of precision."""

FLOAT16_PRECISION: Final = 2.0**-11
"""The largest relative difference between a feature and its value as a float16."""

OFFSET: Final = 0.25
"""The distance of pixels from whole levels in the check: a model that does not round them computes other features."""

Features = np.ndarray | tuple[np.ndarray, ...]
"""The features (k, *shape) of k images: one tensor, or several at a branching cut."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts that an exported model was made of.

    Attributes:
        spec: the spec of the cached features.
        cut: the operations whose outputs are the features; none if the features are the pixels.
        cached: returns the cached features of rows (k,) of the set.
        trunk: from pixels to features; None if the features are the pixels. It is used if no image can be read.
        head: from features to probabilities.
    """

    spec: TrunkSpec
    cut: Sequence[str]
    cached: Callable[[np.ndarray], Features]
    trunk: keras.Model | None
    head: keras.Model

    @property
    def features_tolerance(self) -> float:
        """The maximum difference of two trunks' features, relative to the largest.

        Two engines, and two batch sizes of one of them, may each differ by the tolerance of engines.
        """
        stored = FLOAT16_PRECISION if self.spec.dtype == "float16" else 0.0
        return 2 * ENGINE_TOLERANCE[self.spec.precision] + stored

    @property
    def tolerance(self) -> float:
        """The difference of a probability above which an engine's noise is worth a warning."""
        return TOLERANCE if self.spec.precision == self.spec.dtype == "float32" else REDUCED_TOLERANCE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """The agreement between an exported model and the parts that it was made of.

    Attributes:
        images: the number of images compared.
        synthetic: whether they are random images, because none of the dataset's could be read.
        head_max_difference: the largest difference of a probability between the model above the cut and the head, both
            given the cached features.
        features_max_difference: the largest difference between the model at the cut and the cached features, relative
            to the largest feature.
        resized_max_difference: the largest difference of a probability between the whole model, on images resized as in
            extraction, and the head on cached features.
        tolerance: the `resized_max_difference` above which the difference is worth a warning.
        full_size_equal_labels: the fraction of equal labels on images that the model itself resizes; None if synthetic.
        full_size_max_difference: the largest difference of a probability on those; None if synthetic.
    """

    images: int
    synthetic: bool
    head_max_difference: float
    features_max_difference: float
    resized_max_difference: float
    tolerance: float
    full_size_equal_labels: float | None
    full_size_max_difference: float | None

    @property
    def warnings(self) -> list[str]:
        """A warning if the head amplifies small differences of features to large ones of probabilities."""
        if self.resized_max_difference <= self.tolerance:
            return []
        return [
            f"the model's probabilities differ by up to {self.resized_max_difference:.1e} from those of the head on "
            f"cached features: features differ by {self.features_max_difference:.1e} of the largest between engines or "
            "batch sizes, and this head amplifies that"
        ]


def output_names(model: keras.Model) -> tuple[str, ...]:
    """Return the names of the operations that compute a trunk's features; none if these are its input."""
    names = [name for name, _, _ in tensors_of(model.get_config()["output_layers"])]
    return () if names == [model.operations[0].name] else tuple(names)


def export_checked(
    model: keras.Model, stage: Path, features: FeatureSet, rows: dict[str, np.ndarray], parts: Parts
) -> Parity:
    """Save a run's model, read it back and check it.

    Args:
        model: from images to probabilities.
        stage: the folder in which the run is assembled.
        features: the set that the head was fitted to.
        rows: the set's rows per split.
        parts: the parts that the model was made of.

    Raises:
        ParityError: the model and its parts do not agree.
    """
    path = stage / MODEL_FILE
    export_model(model, path)
    return check_parity(path, parts, sample_images(features, rows))


def check_parity(path: str | os.PathLike[str], parts: Parts, images: Iterable[tuple[int, np.ndarray]]) -> Parity:
    """Compare an exported model, read back from its file in safe mode, with the parts that it was made of.

    Above the cut, the model and the head are compared on the same features; below it, the model's features with those
    that are cached. The difference of the whole is measured: it has no bound, because a head may amplify any noise.

    Args:
        path: the model's file.
        parts: the parts.
        images: rows of the set, each with its image (h, w, 3) uint8 at full size.

    Raises:
        ParityError: pixels, features or probabilities differ by more than their tolerance.
    """
    model = load_model_file(path)
    prepare = inspect(model, str(path)).prepare
    samples = [(row, resize(pixels, parts.spec.image_size), prepare(pixels)) for row, pixels in images]
    if samples:
        resized = np.stack([pixels for _, pixels, _ in samples])
        features = parts.cached(np.array([row for row, _, _ in samples], np.int64))
    else:
        resized = np.random.default_rng(0).integers(0, 256, (SYNTHETIC_IMAGES, *parts.spec.image_size, 3), np.uint8)
        features = _features_of(parts, resized)
    expected = predict_arrays(parts.head, features)
    cut = _tensors(model, parts.cut)
    head = _head_difference(model, cut, features, expected)
    # One engine for both kinds of images, because compiling takes longer than computing a few.
    outputs = [pixels_of(model), *cut, model.outputs[0]]
    engine = KerasEngine(keras.Model(model.inputs[0], outputs), batch_size=len(resized))
    whole, trunk = _run_from_pixels(engine, resized, features, parts)
    full_size = engine(np.stack([pixels for _, _, pixels in samples]))[-1] if samples else None
    return Parity(
        images=len(resized),
        synthetic=not samples,
        head_max_difference=head,
        features_max_difference=trunk,
        resized_max_difference=_max_difference(whole, expected),
        tolerance=parts.tolerance,
        full_size_equal_labels=None if full_size is None else _equal_labels(full_size, expected),
        full_size_max_difference=None if full_size is None else _max_difference(full_size, expected),
    )


def _features_of(parts: Parts, pixels: np.ndarray) -> Features:
    if parts.trunk is None:
        return pixels.astype(np.float32)
    features = KerasEngine(parts.trunk, batch_size=len(pixels))(pixels)
    return tuple(features) if len(features) > 1 else features[0]


def _tensors(model: keras.Model, cut: Sequence[str]) -> list[Any]:
    """Return the outputs of operations of a model; its pixels if none are named."""
    operations = {operation.name: operation for operation in model.operations}
    missing = [name for name in cut if name not in operations]
    if missing:
        raise ParityError("the exported model lacks a layer of the trunk", expected=missing[0])
    return [operations[name].output for name in cut] or [pixels_of(model)]


def _head_difference(model: keras.Model, cut: list[Any], features: Features, expected: np.ndarray) -> float:
    """Return the largest difference of a probability above the cut, given the same features.

    Raises:
        ParityError: it is above the tolerance.
    """
    above = keras.Model(tuple(cut) if len(cut) > 1 else cut[0], model.outputs[0])
    difference = _max_difference(predict_arrays(above, features), expected)
    exact = all(getattr(layer, "compute_dtype", "float32") == "float32" for layer in above.layers)
    tolerance = TOLERANCE if exact else REDUCED_TOLERANCE
    if not difference <= tolerance:
        raise ParityError(
            "the exported model does not agree with the head on cached features",
            expected=f"probabilities within {tolerance:g} on {len(expected)} images",
            found=f"a difference of {difference:.3g}",
            do="report it: nothing was written",
        )
    return difference


def _run_from_pixels(
    engine: KerasEngine, resized: np.ndarray, features: Features, parts: Parts
) -> tuple[np.ndarray, float]:
    """Run a model with the outputs pixels, features and probabilities on images (k, h, w, 3) uint8 of the trunk's size.

    Returns:
        Probabilities (k, classes), and the largest difference of its features from `features`.

    Raises:
        ParityError: its pixels are not those, or its features differ by more than the tolerance.
    """
    offset = np.where(resized < 128, OFFSET, -OFFSET).astype(np.float32)
    pixels, *found, whole = engine(resized + offset)
    if not np.abs(pixels - resized).max() < OFFSET / 2:
        raise ParityError("the exported model does not resize and round pixels as extraction does", do="report it")
    cached = features if isinstance(features, tuple) else (features,)
    difference = max(largest_difference(left, right) for left, right in zip(found, cached, strict=True))
    if not difference <= parts.features_tolerance:
        raise ParityError(
            "the exported model's trunk does not give the cached features",
            expected=f"a difference of at most {parts.features_tolerance:.0e} of the largest on {len(resized)} images",
            found=f"{difference:.1e}",
            do="extract into a new folder with --engine keras, and fit to that set",
        )
    return whole, difference


def _equal_labels(left: np.ndarray, right: np.ndarray) -> float:
    return float((left.argmax(1) == right.argmax(1)).mean())


def _max_difference(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left - right).max())


def sample_images(features: FeatureSet, rows: dict[str, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield up to 64 images to check parity on, spread evenly over the test images, or over all if there are none.

    Args:
        features: the set.
        rows: the set's rows per split.

    Yields:
        A row and its pixels (h, w, 3) uint8 at full size. Images that are missing or changed are left out.
    """
    candidates = rows["test"] if len(rows["test"]) else np.arange(len(features))
    chosen = candidates[np.unique(np.linspace(0, len(candidates) - 1, PARITY_IMAGES).astype(int))]
    originals = Originals(features)
    for row in chosen.tolist():
        try:
            image = originals.load(row)
        except ImageError:
            continue
        # Extraction decoded this content, so a failure to decode it now is an error.
        yield row, image.full_size()
