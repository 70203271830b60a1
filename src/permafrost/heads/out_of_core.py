"""Features on disk: ridge and LDA in one pass, logistic regression in several, Keras by batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from permafrost.errors import HeadError
from permafrost.heads.calibration import inverse_temperature, row_losses
from permafrost.heads.closed_forms import Moments, lda_path, ridge_path, scaling_of
from permafrost.heads.cross_validation import blas_threads
from permafrost.heads.families import FAMILIES, Setup
from permafrost.heads.head import FittedHead, HeadData
from permafrost.heads.options import KERAS_HEADS, HeadOptions
from permafrost.heads.sklearn_heads import setup_of
from permafrost.heads.table import find_head
from permafrost.heads.to_keras import Affine, Step, softmax, to_keras
from permafrost.machine import cpu_count
from permafrost.store.streaming import FeatureRows, Made

STREAMED: Final = (*KERAS_HEADS, "ridge", "lda", "logistic")
"""Heads that can be fitted to features that stay on disk."""

MATRICES: Final = 6
"""How many matrices of features by features, in float64, are held at once: sums, and a part of them for each thread in
float32; then two that are decomposed, the eigenvectors, and what LAPACK works with."""

MAX_THREADS: Final = 8
"""That compute; each holds a block, and products of its own."""

MAX_PASSES: Final = 60
"""Over the rows, at most, by logistic regression."""


def fit_out_of_core(name: str, data: HeadData, options: HeadOptions) -> FittedHead:
    """Fit a head to `data.stream`, of which `data.x` is a sample.

    Raises:
        HeadError: the head needs all features in memory, or their products do not fit into it either.
    """
    stream = data.stream
    assert stream is not None
    if name not in STREAMED:
        raise HeadError(
            f"{name} needs all features in memory",
            expected=f"4 times {stream.nbytes / 1e9:.3g} GB",
            found=f"a memory limit of {stream.memory_limit / 1e9:.3g} GB",
            do=f"give a larger --memory-limit, or take --head {', '.join(STREAMED)}",
        )
    if name in KERAS_HEADS:
        fitted = find_head(name)(data, options)
        way = f"by batches of {options.training.batch_size} in a shuffled order, read from disk in each epoch"
        return dataclasses.replace(fitted, details=fitted.details | {"fitted": way})
    if options.pca is not None:
        raise HeadError("principal components need all features in memory", do="give a larger --memory-limit")
    features = int(np.prod(stream.shape))
    if name != "logistic" and MATRICES * 8 * features**2 > stream.memory_limit:
        raise HeadError(
            f"{name} needs {MATRICES} matrices of {features:,} by {features:,} features in memory",
            expected=f"{MATRICES * 8 * features**2 / 1e9:.3g} GB",
            found=f"a memory limit of {stream.memory_limit / 1e9:.3g} GB",
            do="extract with --pool avg, or take --head linear",
        )
    return (_fit_logistic if name == "logistic" else _fit_moments)(name, data, options)


def _fit_moments(name: str, data: HeadData, options: HeadOptions) -> FittedHead:
    """Ridge or LDA from moments, gathered in one pass; its setting and temperature suit the validation rows best."""
    stream, family = data.stream, FAMILIES[name]
    assert stream is not None
    setup = setup_of(data, options, int(np.prod(stream.shape)))
    moments, scaling = gather_moments(stream, setup.class_weights(stream.labels), options.scaling)
    fit = ridge_path(moments) if name == "ridge" else lda_path(moments, setup.features)
    given = options.regularization
    values = (float(given),) if given is not None else family.values(len(stream))
    x, y = _held_out(data)
    scaled = scaling(x.reshape(len(x), -1).astype(np.float64))
    weights = setup.class_weights(y)[y]
    history, best = [], (np.inf, values[0], 1.0)
    for value in values:
        logits = fit(value)(scaled)
        factor = inverse_temperature(logits, y, weights) if family.scores_only else 1.0
        loss = float(np.average(row_losses(factor * logits, y), weights=weights))
        history.append({family.setting: value, "validation_log_loss": loss})
        best = min(best, (loss, value, factor))
    _, value, factor = best
    fitted = fit(value)
    steps: list[Step] = [scaling, Affine(factor * fitted.kernel, factor * fitted.bias), softmax]
    details = {family.setting: value, "chosen_by": "option" if given is not None else "validation"}
    if family.scores_only:
        details["inverse_temperature"] = factor
    way = f"in one pass over {stream.nbytes / 1e9:.3g} GB on disk, by accumulated moments"
    return FittedHead(
        model=to_keras(steps, stream.shape), history=history if given is None else [], details=details | {"fitted": way}
    )


def gather_moments(stream: FeatureRows, class_weights: np.ndarray, scaling: str) -> tuple[Moments, Affine]:
    """Moments of scaled rows, and the scaling, in one pass.

    Products are formed in float32, of rows from which the mean of the first ones is taken, and added up in float64.

    Args:
        stream: the rows.
        class_weights: (classes,) the weight of a row of each class.
        scaling: one of `heads.SCALINGS`.
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
    for found, more in _over_blocks(stream, of_block):
        total.add(found)
        squares += more
    if equal:  # They stand among the products.
        squares = np.diag(total.products) / class_weights[0]
    mean, moved = _scaling_from(len(stream), (total.sums / class_weights[:, None]).sum(axis=0), squares, scaling)
    # Of rows that are not shifted.
    affine = Affine(moved.kernel, moved.bias - shift * moved.kernel)
    return total.scaled(mean, 1 / moved.kernel), affine


def gather_scaling(stream: FeatureRows, scaling: str) -> Affine:
    """The scaling alone, in one pass."""
    shift = _rough_mean(stream)

    def of_block(_: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = block.reshape(len(block), -1)
        x -= shift
        return x.sum(axis=0, dtype=np.float64), _squares(x)

    sums, squares = (np.sum(found, axis=0) for found in zip(*_over_blocks(stream, of_block), strict=True))
    _, moved = _scaling_from(len(stream), sums, squares, scaling)
    return Affine(moved.kernel, moved.bias - shift * moved.kernel)


def _over_blocks(stream: FeatureRows, function: Callable[[np.ndarray, np.ndarray], Made]) -> Iterator[Made]:
    """`function` of each block, by several threads; a matrix product has one alone, so that none waits for another."""
    with blas_threads(1):
        yield from stream.over_blocks(function, threads=min(cpu_count(), MAX_THREADS))


def _rough_mean(stream: FeatureRows) -> np.ndarray:
    """About the mean (d,) float32: float32 keeps the digits of what is near it."""
    first = stream.load(stream.disk_order[: max(1, min(256, stream.memory_limit // 16 // stream.row_bytes))])
    mean: np.ndarray = first.reshape(len(first), -1).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _squares(x: np.ndarray) -> np.ndarray:
    """The sum of squares (d,) float64 of each column of x (n, d) float32: of a few rows in float32, then in float64."""
    parts = np.split(x, range(256, len(x), 256))
    return np.asarray(np.sum([np.einsum("ij,ij->j", part, part) for part in parts], axis=0, dtype=np.float64))


def _scaling_from(count: int, sums: np.ndarray, squares: np.ndarray, scaling: str) -> tuple[np.ndarray, Affine]:
    """The mean and the scaling of rows of which only their number, sums and sums of squares (d,) are known.

    Raises:
        HeadError: they are no numbers.
    """
    if not np.isfinite(squares).all():
        raise HeadError("some features are not finite", expected="numbers", do="extract again with sound weights")
    mean = sums / count
    return mean, scaling_of(mean, np.maximum(squares / count - mean**2, 0), scaling)


def _held_out(data: HeadData) -> tuple[np.ndarray, np.ndarray]:
    if data.validation_x is None or data.validation_y is None:
        raise HeadError(
            "features on disk need validation images to choose on", do="extract with a --validation-fraction"
        )
    return data.validation_x, data.validation_y


def _fit_logistic(name: str, data: HeadData, options: HeadOptions) -> FittedHead:
    """Logistic regression by L-BFGS, a pass over the rows a step, from where a sample in memory leads it."""
    stream = data.stream
    assert stream is not None
    first = find_head(name)(data, options)
    strength = first.details["C"]
    setup = setup_of(data, options, int(np.prod(stream.shape)))
    weights = setup.class_weights(stream.labels)
    scaling = gather_scaling(stream, options.scaling)
    objective = _LogisticLoss(stream, weights, scaling, strength, setup)
    dense = first.model.layers[-1]
    kernel, bias = (np.asarray(array, np.float64) for array in dense.get_weights())
    found = minimize(
        objective,
        objective.start(kernel, bias),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_PASSES, "maxfun": MAX_PASSES, "gtol": 1e-6, "ftol": 1e-10},
    )
    way = (
        f"in {objective.passes} passes over {stream.nbytes / 1e9:.3g} GB on disk, "
        f"from a start fitted to {len(data.y):,} rows in memory"
    )
    details = first.details | {"fitted": way, "passes": objective.passes}
    return FittedHead(
        model=to_keras([scaling, objective.as_affine(found.x), softmax], stream.shape),
        history=first.history,
        details=details,
    )


class _LogisticLoss:
    """scikit-learn's objective and its gradient, each a pass: C times the sum of losses, and half the squared weights.

    Divided by C times the sum of the rows' weights. Two classes have one row of coefficients, as there.
    """

    def __init__(
        self, stream: FeatureRows, weights: np.ndarray, scaling: Affine, strength: float, setup: Setup
    ) -> None:
        self._stream, self._weights, self._scaling = stream, weights, scaling
        # Rows are centred before they are multiplied, for the digits' sake; next to nothing is left for the scaling.
        self._centre = (-scaling.bias / scaling.kernel).astype(np.float32)
        self._of_centred = Affine(scaling.kernel, scaling.bias + self._centre * scaling.kernel)
        self._total = float(weights[stream.labels].sum())
        self._penalty = 1 / (strength * self._total)
        self._classes, self._binary = setup.class_count, setup.class_count == 2
        self.passes = 0

    def start(self, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Parameters of a map (d, classes) of features that are not scaled."""
        scaled = kernel / self._scaling.kernel[:, None]
        moved = bias - (self._scaling.bias / self._scaling.kernel) @ kernel
        if self._binary:
            scaled, moved = scaled[:, 1:] - scaled[:, :1], moved[1:] - moved[:1]
        return np.concatenate([scaled.reshape(-1), moved])

    def as_affine(self, parameters: np.ndarray) -> Affine:
        """The map of scaled features to logits that these parameters are."""
        columns = 1 if self._binary else self._classes
        kernel, bias = parameters[:-columns].reshape(-1, columns), parameters[-columns:]
        if self._binary:
            kernel = np.concatenate([np.zeros_like(kernel), kernel], axis=1)
            bias = np.concatenate([[0.0], bias])
        return Affine(kernel, bias)

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        self.passes += 1
        scaled = self.as_affine(parameters)
        whole = self._of_centred.then(scaled)
        kernel, bias = whole.kernel.astype(np.float32), whole.bias.astype(np.float32)

        def of_block(numbers: np.ndarray, block: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            x, y = block.reshape(len(block), -1), self._stream.labels[numbers]
            x -= self._centre
            logs = log_softmax((x @ kernel + bias).astype(np.float64), axis=1)
            weights = self._weights[y]
            residuals = np.exp(logs)
            residuals[np.arange(len(y)), y] -= 1
            residuals *= weights[:, None]
            own = -float(weights @ logs[np.arange(len(y)), y])
            return own, (x.T @ residuals.astype(np.float32)).astype(np.float64), residuals.sum(axis=0)

        loss, gradient, slopes = 0.0, np.zeros_like(scaled.kernel), np.zeros_like(scaled.bias)
        for own, rising, moving in _over_blocks(self._stream, of_block):
            loss, gradient, slopes = loss + own, gradient + rising, slopes + moving
        # Of scaled features: (x * k + b)ᵀ r.
        gradient = gradient * self._of_centred.kernel[:, None] + np.outer(self._of_centred.bias, slopes)
        if self._binary:
            gradient, slopes, free = gradient[:, 1:], slopes[1:], scaled.kernel[:, 1:]
        else:
            free = scaled.kernel
        value = loss / self._total + 0.5 * self._penalty * float(np.sum(free**2))
        gradient = gradient / self._total + self._penalty * free
        return value, np.concatenate([gradient.reshape(-1), slopes / self._total])
