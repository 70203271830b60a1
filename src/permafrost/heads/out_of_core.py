"""Fit heads to features on disk, from moments that one pass gathers; helpers for heads that need more passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.errors import HeadError
from permafrost.heads.calibration import inverse_temperature, row_losses
from permafrost.heads.closed_forms import Moments, scaling_of
from permafrost.heads.cross_validation import one_blas_thread
from permafrost.heads.head import FittedHead, Head, HeadData
from permafrost.heads.options import HEADS, HeadOptions
from permafrost.heads.preparation import setup_of
from permafrost.heads.table import find_head
from permafrost.heads.to_keras import Affine, Step, softmax, to_keras
from permafrost.machine import cpu_count
from permafrost.store.streaming import FeatureRows, Made
from permafrost.units import size

if TYPE_CHECKING:
    from permafrost.heads.classical_head import ClassicalHead

MATRICES: Final = 6
"""Number of (features, features) float64 matrices that fitting needs memory for: sums, and a part of them per thread in
float32; then two that are decomposed, the eigenvectors, and LAPACK's workspace."""

MAX_THREADS: Final = 8
"""Maximum number of compute threads; each holds a block and its own products."""


def fit_out_of_core(head: Head, data: HeadData, options: HeadOptions) -> FittedHead:
    """Fit a head to `data.stream`; `data.x` is a sample of it.

    Raises:
        HeadError: the head needs all features in memory, or more memory than the limit.
    """
    stream = data.stream
    assert stream is not None
    if not head.streams:
        raise HeadError(
            f"{head.name} needs all features in memory",
            expected=f"4 times {size(stream.nbytes)}",
            found=f"a memory limit of {size(stream.memory_limit)}",
            do="give a larger --memory-limit, or take --head "
            + ", ".join(name for name in HEADS if find_head(name).streams),
        )
    return head.fit_from_disk(data, options)


def fit_from_moments(
    path: Callable[[Moments, int], Callable[[float], Affine]],
) -> Callable[[ClassicalHead, HeadData, HeadOptions], FittedHead]:
    """Return a function that fits a head from moments, which are gathered in one pass over the stream.

    The setting and the temperature are chosen by the log loss on the validation rows.

    Args:
        path: takes moments and the number of features, and returns a function from the setting to logits.
    """

    def fit(head: ClassicalHead, data: HeadData, options: HeadOptions) -> FittedHead:
        stream = data.stream
        assert stream is not None
        given = head.given(options)
        require_no_components(options)
        _require_matrices(head, stream)
        x, y = _validation(data)
        setup = setup_of(data, options, math.prod(stream.shape))
        moments, scaling = gather_moments(stream, setup.class_weights(stream.labels), options.scaling)
        fit_value = path(moments, setup.features)
        values = (given,) if given is not None else head.values(len(stream))
        scaled = scaling(x.reshape(len(x), -1).astype(np.float64))
        weights = setup.class_weights(y)[y]
        history, best = [], (np.inf, values[0], 1.0)
        for value in values:
            logits = fit_value(value)(scaled)
            factor = inverse_temperature(logits, y, weights) if head.scores_only else 1.0
            loss = float(np.average(row_losses(factor * logits, y), weights=weights))
            history.append({head.setting: value, "validation_log_loss": loss})
            best = min(best, (loss, value, factor))
        _, value, factor = best
        fitted = fit_value(value)
        steps: list[Step] = [scaling, Affine(factor * fitted.kernel, factor * fitted.bias), softmax]
        details = {head.setting: value, "chosen_by": "option" if given is not None else "validation"}
        if head.scores_only:
            details["inverse_temperature"] = factor
        details["fitted"] = f"in one pass over {size(stream.nbytes)} on disk, by accumulated moments"
        return FittedHead(
            model=to_keras(steps, stream.shape), history=history if given is None else [], details=details
        )

    return fit


def _require_matrices(head: ClassicalHead, stream: FeatureRows) -> None:
    features = math.prod(stream.shape)
    needed = MATRICES * 8 * features**2
    if needed > stream.memory_limit:
        raise HeadError(
            f"{head.name} needs {MATRICES} matrices of {features:,} by {features:,} features in memory",
            expected=size(needed),
            found=f"a memory limit of {size(stream.memory_limit)}",
            do="extract with --pool avg, or take --head linear",
        )


def require_no_components(options: HeadOptions) -> None:
    """Check that no principal components are requested.

    Raises:
        HeadError: they are requested.
    """
    if options.pca is not None:
        raise HeadError("principal components need all features in memory", do="give a larger --memory-limit")


def _validation(data: HeadData) -> tuple[np.ndarray, np.ndarray]:
    if data.validation_x is None or data.validation_y is None:
        raise HeadError(
            "features on disk need validation images to choose a setting", do="extract with a --validation-fraction"
        )
    return data.validation_x, data.validation_y


def gather_moments(stream: FeatureRows, class_weights: np.ndarray, scaling: str) -> tuple[Moments, Affine]:
    """Return the moments of scaled rows, and the scaling, from one pass.

    Products are computed in float32, of rows minus the mean of the first ones, and added up in float64.

    Args:
        stream: the rows.
        class_weights: (classes,) float64, the weight of a row of each class.
        scaling: one of `SCALINGS`.
    """
    shift = _rough_mean(stream)
    equal = bool(np.ptp(class_weights) == 0)

    def of_block(numbers: np.ndarray, block: np.ndarray) -> tuple[Moments, np.ndarray | float]:
        x = block.reshape(len(block), -1)
        x -= shift
        return Moments.of(x, stream.labels[numbers], class_weights), 0.0 if equal else _squares(x)

    features = len(shift)
    total = Moments(
        np.zeros(len(class_weights)), np.zeros((len(class_weights), features)), np.zeros((features, features))
    )
    squares = np.zeros(features)
    for found, more in over_blocks(stream, of_block):
        total.add(found)
        squares += more
    if equal:  # The squares are the diagonal of the products.
        squares = np.diag(total.products) / class_weights[0]
    mean, moved = _scaling_from(len(stream), (total.sums / class_weights[:, None]).sum(axis=0), squares, scaling)
    # Convert to a map of unshifted rows.
    affine = Affine(moved.kernel, moved.bias - shift * moved.kernel)
    return total.scaled(mean, 1 / moved.kernel), affine


def gather_scaling(stream: FeatureRows, scaling: str) -> Affine:
    """Return the scaling alone, from one pass."""
    shift = _rough_mean(stream)

    def of_block(_: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = block.reshape(len(block), -1)
        x -= shift
        return x.sum(axis=0, dtype=np.float64), _squares(x)

    sums, squares = (np.sum(found, axis=0) for found in zip(*over_blocks(stream, of_block), strict=True))
    _, moved = _scaling_from(len(stream), sums, squares, scaling)
    return Affine(moved.kernel, moved.bias - shift * moved.kernel)


def over_blocks(stream: FeatureRows, function: Callable[[np.ndarray, np.ndarray], Made]) -> Iterator[Made]:
    """Yield the result of `function` for each block, from several threads, each with one thread for matrix products."""
    with one_blas_thread():
        yield from stream.over_blocks(function, threads=min(cpu_count(), MAX_THREADS))


def _rough_mean(stream: FeatureRows) -> np.ndarray:
    """Return an approximate mean (d,) float32; subtracting it from rows preserves precision in float32."""
    first = stream.load(stream.disk_order[: max(1, min(256, stream.memory_limit // 16 // stream.row_bytes))])
    mean: np.ndarray = first.reshape(len(first), -1).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _squares(x: np.ndarray) -> np.ndarray:
    """Return the sum of squares (d,) float64 of each column of x (n, d) float32, added up in float64 every 256 rows."""
    parts = np.split(x, range(256, len(x), 256))
    return np.asarray(np.sum([np.einsum("ij,ij->j", part, part) for part in parts], axis=0, dtype=np.float64))


def _scaling_from(count: int, sums: np.ndarray, squares: np.ndarray, scaling: str) -> tuple[np.ndarray, Affine]:
    """Return the mean and the scaling of rows from their number, sums (d,) and sums of squares (d,).

    Raises:
        HeadError: some features are not finite.
    """
    if not np.isfinite(squares).all():
        raise HeadError("some features are not finite", expected="numbers", do="extract again with sound weights")
    mean = sums / count
    return mean, scaling_of(mean, np.maximum(squares / count - mean**2, 0), scaling)
