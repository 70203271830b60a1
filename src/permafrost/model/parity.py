"""An exported model compared with the head on kept features."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import keras
import numpy as np

from permafrost.errors import ImageError, ParityError
from permafrost.extraction.originals import Originals
from permafrost.images.resizing import resize
from permafrost.model.assembly import computed, resizer
from permafrost.trunk.bases import load_model_file

if TYPE_CHECKING:
    from permafrost.trunk.spec import TrunkSpec

from typing import TYPE_CHECKING

from permafrost.model.assembly import export_model
from permafrost.store.feature_set import FeatureSet
from permafrost.trunk.run_base import MODEL_FILE
from permafrost.trunk.spec import TrunkSpec

if TYPE_CHECKING:
    pass


PARITY_IMAGES: Final = 64


TOLERANCE: Final = 1e-4


REDUCED_TOLERANCE: Final = 3e-2
"""Where the trunk computes in bfloat16 or features are stored in float16: eight and eleven bits of precision."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """How an exported model compares with what it was made of, on some images.

    Attributes:
        images: how many were compared.
        synthetic: whether they were made up, because none of the dataset's could be read.
        resized_max_difference: the largest difference of a probability, on images resized as in extraction.
        tolerance: what it may be.
        full_size_equal_labels: on images at full size, which the model resizes itself, the share of equal labels.
        full_size_max_difference: there, the largest difference of a probability.
    """

    images: int
    synthetic: bool
    resized_max_difference: float
    tolerance: float
    full_size_equal_labels: float | None
    full_size_max_difference: float | None


def check_parity(
    path: str | os.PathLike[str],
    spec: TrunkSpec,
    images: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    reference: Callable[[np.ndarray], np.ndarray],
) -> Parity:
    """Compare an exported model, read back from its file, with what it was made of.

    Args:
        path: the model's file; it is opened in safe mode.
        spec: of the features that the head was fitted to.
        images: of the dataset, (h, w, 3) uint8 at full size, each with the probabilities (classes,) of the head on
            its kept features.
        reference: probabilities of the parts in memory for pixels (n, h, w, 3) uint8, for where there is no image.

    Raises:
        ParityError: on images resized as in extraction, a probability differs by more than the tolerance.
    """
    model = load_model_file(path)
    prepare = resizer(model)
    trios = [(resize(pixels, spec.image_size), prepare(pixels), row) for pixels, row in images]
    synthetic = not trios
    if synthetic:
        resized = np.random.default_rng(0).integers(0, 256, (8, *spec.image_size, 3), np.uint8)
        expected = reference(resized)
    else:
        resized = np.stack([pixels for pixels, _, _ in trios])
        expected = np.stack([row for _, _, row in trios])
    difference = _max_difference(computed(model, resized), expected)
    tolerance = TOLERANCE if spec.precision == spec.dtype == "float32" else REDUCED_TOLERANCE
    if not difference <= tolerance:
        raise ParityError(
            f"the exported model {path} does not agree with the head on kept features",
            expected=f"probabilities within {tolerance:g} on {len(resized)} images",
            found=f"a difference of {difference:.3g}",
        )
    served = None if synthetic else computed(model, [pixels for _, pixels, _ in trios])
    return Parity(
        images=len(resized),
        synthetic=synthetic,
        resized_max_difference=difference,
        tolerance=tolerance,
        full_size_equal_labels=None if served is None else float((served.argmax(1) == expected.argmax(1)).mean()),
        full_size_max_difference=None if served is None else _max_difference(served, expected),
    )


def _max_difference(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left - right).max())


Outputs = Callable[[np.ndarray], np.ndarray]


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
    """Save a run's model, and compare it, read back, with what it was made of.

    Args:
        model: from images to probabilities.
        stage: the folder in which the run is put together.
        features: the set that it came from.
        rows: of each split.
        on_rows: given (k,) rows of the set, the probabilities (k, classes) to compare with.
        on_pixels: given pixels (k, h, w, 3) uint8, the same; for where no image can be read.
        spec: of the kept features behind `on_rows`, where they are not the set's.

    Raises:
        ParityError: they do not agree.
    """
    path = stage / MODEL_FILE
    export_model(model, path)
    return check_parity(path, spec or features.spec, sample_images(features, rows, on_rows), reference=on_pixels)


def sample_images(
    features: FeatureSet, rows: dict[str, np.ndarray], outputs: Outputs
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Up to 64 images, spread over the test images, or where there are none over all, to check parity on.

    Args:
        features: the set.
        rows: of each split.
        outputs: given (k,) rows, the probabilities (k, classes) to compare with.

    Yields:
        (h, w, 3) uint8 at full size, and (classes,), for each image that is still there and has not changed.
    """
    candidates = rows["test"] if len(rows["test"]) else np.arange(len(features))
    chosen = candidates[np.unique(np.linspace(0, len(candidates) - 1, PARITY_IMAGES).astype(int))]
    originals = Originals(features)
    for row, expected in zip(chosen, outputs(chosen), strict=True):
        try:
            image = originals.load(int(row))
        except ImageError:
            continue
        # Extraction decoded this very content: that it cannot be decoded now is an error, not an image less.
        yield image.full_size(), expected
