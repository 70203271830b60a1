"""Heads that scikit-learn fits, folded into Keras layers with equal probabilities. Nothing is pickled."""

from __future__ import annotations

import dataclasses
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import keras
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from permafrost.errors import HeadError, OptionError
from permafrost.heads import FittedHead, HeadData, HeadOptions

STRENGTHS: Final = tuple(float(c) for c in np.logspace(-4, 0, 17))
"""The inverse regularisation strengths `C` among which `logistic` chooses."""

FOLDS: Final = 5
MAX_ITERATIONS: Final = 1000
TOLERANCE: Final = 1e-4
"""L-BFGS ends when no component of the gradient is larger: scikit-learn's own default, so that results are its own."""

TOLERANCE_IN_SPAN: Final = 1e-6
"""The same in turned coordinates, where that is another criterion: tight enough to give its probabilities to 1e-5."""

SMALL: Final = 10_000_000
"""Numbers in a matrix below which one thread multiplies it faster than several."""


@dataclasses.dataclass(frozen=True)
class AffineClassifier:
    """`softmax((x - mean) / scale @ weights + bias)` on flattened features.

    Attributes:
        mean, scale: (d,) float64.
        weights: (d, classes) float64.
        bias: (classes,) float64.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def to_keras(self, shape: tuple[int, ...]) -> keras.Model:
        """The same as one dense layer, the scaling folded into its weights.

        Args:
            shape: of one picture's features.
        """
        kernel = self.weights / self.scale[:, None]
        bias = self.bias - self.mean @ kernel
        features = x = keras.Input(shape, name="features")
        if len(shape) > 1:
            x = keras.layers.Flatten(name="head_flatten")(x)
        layer = keras.layers.Dense(kernel.shape[1], "softmax", name="head_probabilities")
        model = keras.Model(features, layer(x), name="head")
        layer.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
        return model


def fit_logistic(data: HeadData, options: HeadOptions) -> FittedHead:
    """Standardised features and an L2-regularised logistic regression (scikit-learn's, by L-BFGS).

    Where no strength is given, it is chosen by stratified five-fold cross-validation on the training pictures: the
    strongest regularisation whose log loss is within one standard error of the least (the one-standard-error rule:
    Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10). With more features than
    pictures the regression is fitted in the space that the pictures span, which holds its solution (section 18.3.5).

    Raises:
        OptionError: a strength that is not positive.
        HeadError: a class with a single training picture, and a strength to be chosen.
    """
    if options.regularization is not None and not options.regularization > 0:
        raise OptionError("C is not positive", expected="more than 0", found=options.regularization)
    flat = data.x.reshape(len(data.x), -1).astype(np.float64)
    scaler = StandardScaler(copy=False).fit(flat)
    scaled = scaler.transform(flat)
    basis = _span(scaled)
    reduced = scaled if basis is None else scaled @ basis.T
    weight = None if options.training.class_weight == "none" else "balanced"
    with warnings.catch_warnings():
        # Weak regularisation converges slowly; such settings are compared as they stand.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if options.regularization is None:
            strength, history = _choose_strength(reduced, data, weight, options.training.seed)
        else:
            strength, history = options.regularization, []
        with threadpool_limits(1 if reduced.size < SMALL else None, "blas"):
            model = LogisticRegression(
                C=strength,
                class_weight=weight,
                max_iter=MAX_ITERATIONS,
                tol=TOLERANCE if basis is None else TOLERANCE_IN_SPAN,
            ).fit(reduced, data.y)
    weights = model.coef_ if basis is None else model.coef_ @ basis
    classifier = AffineClassifier(scaler.mean_, scaler.scale_, *_as_softmax(weights, model.intercept_))
    return FittedHead(
        model=classifier.to_keras(data.x.shape[1:]),
        history=history,
        details={"C": strength, "chosen_by": "cross-validation" if history else "option"},
    )


def _choose_strength(
    x: np.ndarray, data: HeadData, weight: str | None, seed: int
) -> tuple[float, list[dict[str, float]]]:
    smallest = int(np.bincount(data.y).min())
    if smallest < 2:
        name = data.class_names[int(np.bincount(data.y).argmin())]
        raise HeadError(
            f"class {name} has too few training pictures to choose C by cross-validation",
            expected="at least 2",
            found=smallest,
            do="add pictures of it, or give --regularization",
        )
    x = x.astype(np.float32)  # Twice as fast, and precise enough to compare strengths.
    folds = list(StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=seed).split(x, data.y))
    models = [LogisticRegression(class_weight=weight, max_iter=MAX_ITERATIONS, warm_start=True) for _ in folds]
    history: list[dict[str, float]] = []
    for strength in STRENGTHS:
        losses = _fold_losses(models, strength, x, data.y, folds)
        error = float(np.std(losses, ddof=1) / np.sqrt(len(losses)))
        history.append({"C": strength, "cross_validation_log_loss": float(np.mean(losses)), "standard_error": error})
        # The curve has one valley, and weak regularisation is slow: once it clearly rises, there is nothing to find.
        best = min(history, key=_loss)
        if _loss(history[-1]) > _loss(best) + 2 * best["standard_error"]:
            break
    chosen = next(row for row in history if _loss(row) <= _loss(best) + best["standard_error"])
    return chosen["C"], history


def _fold_losses(
    models: list[LogisticRegression], strength: float, x: np.ndarray, y: np.ndarray, folds: list[Any]
) -> list[float]:
    """The log loss on each fold, a thread a fold: several threads within a matrix product cost more than they give."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count(), "folds") as threads:
        return list(
            threads.map(lambda pair: _fold_loss(pair[0], strength, x, y, pair[1]), zip(models, folds, strict=True))
        )


def _fold_loss(
    model: LogisticRegression, strength: float, x: np.ndarray, y: np.ndarray, fold: tuple[np.ndarray, np.ndarray]
) -> float:
    """The log loss on a fold's held-out rows; each strength starts from the coefficients of the last."""
    train, held_out = fold
    model.set_params(C=strength).fit(x[train], y[train])
    return float(log_loss(y[held_out], model.predict_proba(x[held_out]), labels=model.classes_))


def _loss(row: dict[str, float]) -> float:
    return row["cross_validation_log_loss"]


def _span(x: np.ndarray) -> np.ndarray | None:
    """An orthonormal basis (r, d) of the rows of x (n, d) where d exceeds n, else None."""
    if x.shape[1] <= x.shape[0]:
        return None
    # The eigenvectors of the small (n, n) matrix of inner products give the basis at a fraction of the cost of an SVD.
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > values[-1] * 1e-10
    basis: np.ndarray = (vectors[:, kept] / np.sqrt(values[kept])).T @ x
    return basis


def _as_softmax(coefficients: np.ndarray, intercepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's coefficients as (d, classes) and (classes,) of a softmax; two classes are given one row by it."""
    if len(coefficients) == 1:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    return coefficients.T, intercepts
