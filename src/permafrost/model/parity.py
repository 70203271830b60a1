"""Export a model and check that it agrees with the head on cached features."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import keras
import numpy as np

from permafrost.errors import ImageError, ParityError
from permafrost.extraction.originals import Originals
from permafrost.images.resizing import resize
from permafrost.model.assembly import export_model
from permafrost.model.inference import probabilities
from permafrost.model.interface import inspect
from permafrost.store.feature_set import FeatureSet
from permafrost.trunk.bases import load_model_file
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

Outputs = Callable[[np.ndarray], np.ndarray]
"""Given rows (k,) of a feature set, or pixels (k, h, w, 3) uint8, the probabilities (k, classes) to compare with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """The agreement between an exported model and the parts that it was made of.

    Attributes:
        images: the number of images compared.
        synthetic: whether they are random images, because none of the dataset's could be read.
        resized_max_difference: the largest difference of a probability, on images resized as in extraction.
        tolerance: the maximum permitted `resized_max_difference`.
        full_size_equal_labels: the fraction of equal labels on images that the model itself resizes; None if synthetic.
        full_size_max_difference: the largest difference of a probability on those; None if synthetic.
    """

    images: int
    synthetic: bool
    resized_max_difference: float
    tolerance: float
    full_size_equal_labels: float | None
    full_size_max_difference: float | None


def export_checked(
    model: keras.Model,
    stage: Path,
    features: FeatureSet,
    rows: dict[str, np.ndarray],
    *,
    on_rows: Outputs,
    on_pixels: Outputs,
    spec: TrunkSpec | None = None,
) -> Parity:
    """Save a run's model, read it back and check it.

    Args:
        model: from images to probabilities.
        stage: the folder in which the run is assembled.
        features: the set that the head was fitted to.
        rows: the set's rows per split.
        on_rows: the head's probabilities for rows of the set.
        on_pixels: the head's probabilities for pixels; used if no image can be read.
        spec: the spec of the cached features that `on_rows` uses; the set's if None.

    Raises:
        ParityError: the model and the head do not agree.
    """
    path = stage / MODEL_FILE
    export_model(model, path)
    return check_parity(path, spec or features.spec, sample_images(features, rows, on_rows), reference=on_pixels)


def check_parity(
    path: str | os.PathLike[str],
    spec: TrunkSpec,
    images: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    reference: Outputs,
) -> Parity:
    """Compare an exported model, read back from its file in safe mode, with the parts that it was made of.

    Args:
        path: the model's file.
        spec: the spec of the features that the head was fitted to.
        images: pairs of an image (h, w, 3) uint8 at full size and the head's probabilities (classes,) on its cached
            features.
        reference: the head's probabilities for pixels; used if there are no images.

    Raises:
        ParityError: on images resized as in extraction, a probability differs by more than the tolerance.
    """
    model = load_model_file(path)
    prepare = inspect(model, str(path)).prepare
    samples = [(resize(pixels, spec.image_size), prepare(pixels), expected) for pixels, expected in images]
    if samples:
        resized = np.stack([pixels for pixels, _, _ in samples])
        expected = np.stack([row for _, _, row in samples])
    else:
        resized = np.random.default_rng(0).integers(0, 256, (SYNTHETIC_IMAGES, *spec.image_size, 3), np.uint8)
        expected = reference(resized)
    difference = _max_difference(probabilities(model, resized), expected)
    tolerance = TOLERANCE if spec.precision == spec.dtype == "float32" else REDUCED_TOLERANCE
    if not difference <= tolerance:
        raise ParityError(
            f"the exported model {path} does not agree with the head on cached features",
            expected=f"probabilities within {tolerance:g} on {len(resized)} images",
            found=f"a difference of {difference:.3g}",
        )
    full_size = probabilities(model, [pixels for _, pixels, _ in samples]) if samples else None
    return Parity(
        images=len(resized),
        synthetic=not samples,
        resized_max_difference=difference,
        tolerance=tolerance,
        full_size_equal_labels=None if full_size is None else _equal_labels(full_size, expected),
        full_size_max_difference=None if full_size is None else _max_difference(full_size, expected),
    )


def _equal_labels(left: np.ndarray, right: np.ndarray) -> float:
    return float((left.argmax(1) == right.argmax(1)).mean())


def _max_difference(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left - right).max())


def sample_images(
    features: FeatureSet, rows: dict[str, np.ndarray], outputs: Outputs
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield up to 64 images to check parity on, spread evenly over the test images, or over all if there are none.

    Args:
        features: the set.
        rows: the set's rows per split.
        outputs: the head's probabilities for rows of the set.

    Yields:
        Pixels (h, w, 3) uint8 at full size and probabilities (classes,). Images that are missing or changed are left
        out.
    """
    candidates = rows["test"] if len(rows["test"]) else np.arange(len(features))
    chosen = candidates[np.unique(np.linspace(0, len(candidates) - 1, PARITY_IMAGES).astype(int))]
    originals = Originals(features)
    for row, expected in zip(chosen, outputs(chosen), strict=True):
        try:
            image = originals.load(int(row))
        except ImageError:
            continue
        # Extraction decoded this content, so a failure to decode it now is an error.
        yield image.full_size(), expected
