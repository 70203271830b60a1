"""Heads that scikit-learn, or a closed form, fits: for each its one setting, and how it is fitted for a value of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from permafrost.heads.calibration import log_probabilities
from permafrost.heads.closed_forms import Moments, lda_path, ridge_path
from permafrost.heads.to_keras import Affine, as_logits

MAX_ITERATIONS: Final = 1000
TOLERANCE: Final = 1e-4
"""L-BFGS ends when no component of the gradient is larger: scikit-learn's own default, so that results are its own."""

TOLERANCE_IN_SPAN: Final = 1e-6
"""The same in the coordinates of the rows' span, a different criterion: tight enough for probabilities within 1e-5."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What fitting depends on beside the rows and the setting.

    Attributes:
        class_count: the number of classes.
        features: the number of features; rows may be coordinates in the smaller space that they span.
        balanced: whether each class has the same say.
        hidden: units of each hidden layer of `mlp`.
        seed: of what is drawn at random.
    """

    class_count: int
    features: int
    balanced: bool
    hidden: tuple[int, ...]
    seed: int

    def class_weights(self, y: np.ndarray) -> np.ndarray:
        """The weight (classes,) of a row of each class: n / (classes * rows of the class), or 1."""
        if not self.balanced:
            return np.ones(self.class_count)
        return len(y) / (self.class_count * np.maximum(np.bincount(y, minlength=self.class_count), 1))


Fitted = Any
"""An `Affine` map to logits, or a fitted classifier of scikit-learn's with probabilities."""

Fitter = Callable[[np.ndarray, np.ndarray, Setup], Callable[[float], Fitted]]
"""From rows x (n, d) and y (n,) to a function that fits for a value of the setting; values are given from the most
regularised on, so that each fit can start from the last."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of head.

    Attributes:
        setting: the name of its setting.
        values: from the number of rows to the values that are compared, the most regularised first.
        fitter: how it is fitted.
        rotation_invariant: whether rotating the features changes nothing, so that many features are fitted in the few
            dimensions that the rows span.
        scores_only: whether it gives scores, which a temperature makes probabilities.
        valid: whether a value of the setting is one, and what is expected.
    """

    setting: str
    values: Callable[[int], tuple[float, ...]]
    fitter: Fitter
    rotation_invariant: bool = False
    scores_only: bool = False
    valid: tuple[Callable[[float], bool], str] = (lambda value: value > 0, "more than 0")


def logits_of(fitted: Fitted, x: np.ndarray) -> np.ndarray:
    """Logits (n, classes) float64 of rows x (n, d)."""
    if isinstance(fitted, Affine):
        return fitted(x)
    return log_probabilities(fitted.predict_proba(x))


def fit_logistic(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], Affine]:
    """L2-regularised logistic regression, by L-BFGS, each fit from the coefficients of the last."""
    model = LogisticRegression(
        class_weight="balanced" if setup.balanced else None,
        max_iter=MAX_ITERATIONS,
        # Rows in float32 are those of a comparison, for which less will do.
        tol=TOLERANCE if x.shape[1] == setup.features or x.dtype == np.float32 else TOLERANCE_IN_SPAN,
        warm_start=True,
    )

    def fit(strength: float) -> Affine:
        model.set_params(C=strength).fit(x, y)
        return as_logits(model.coef_, model.intercept_)

    return fit


def fit_svm(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], Affine]:
    """A linear support vector machine, one class against the others."""
    # Rows in float32 are those of a comparison: to its end, weak regularisation would take most of the time.
    speed: dict[str, Any] = {"dual": True, "tol": 1e-2} if x.dtype == np.float32 else {"dual": "auto"}

    def fit(strength: float) -> Affine:
        weight = "balanced" if setup.balanced else None
        model = LinearSVC(C=strength, class_weight=weight, random_state=setup.seed, max_iter=MAX_ITERATIONS, **speed)
        model.fit(x, y)
        return as_logits(model.coef_, model.intercept_, symmetric=True)

    return fit


def fit_ridge(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], Affine]:
    """Ridge regression of targets -1 and 1, all strengths from one eigendecomposition."""
    return ridge_path(Moments.of(x.astype(np.float64), y, setup.class_weights(y)))


def fit_lda(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], Affine]:
    """Linear discriminant analysis, all shrinkages from one eigendecomposition."""
    return lda_path(Moments.of(x.astype(np.float64), y, setup.class_weights(y)), setup.features)


def fit_knn(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], KNeighborsClassifier]:  # noqa: ARG001
    """The fraction of each class among the nearest rows."""

    def fit(count: float) -> KNeighborsClassifier:
        return KNeighborsClassifier(int(count), algorithm="brute").fit(x, y)

    return fit


def fit_nb(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], GaussianNB]:
    """Gaussian naive Bayes; the setting is the fraction of the largest variance that is added to all."""
    priors = np.full(setup.class_count, 1 / setup.class_count) if setup.balanced else None

    def fit(smoothing: float) -> GaussianNB:
        return GaussianNB(priors=priors, var_smoothing=smoothing).fit(x, y)

    return fit


def fit_mlp(x: np.ndarray, y: np.ndarray, setup: Setup) -> Callable[[float], MLPClassifier]:
    """scikit-learn's network of fully connected layers; the setting is its L2 penalty alpha."""

    def fit(alpha: float) -> MLPClassifier:
        model = MLPClassifier(setup.hidden, alpha=alpha, random_state=setup.seed)
        return model.fit(x, y, sample_weight=setup.class_weights(y)[y] if setup.balanced else None)

    return fit


def _spaced(first: int, last: int, steps: int) -> tuple[float, ...]:
    """Powers of ten from 10^first to 10^last."""
    return tuple(float(value) for value in np.logspace(first, last, steps))


FAMILIES: Final[dict[str, Family]] = {
    "logistic": Family(setting="C", values=lambda _: _spaced(-4, 2, 19), fitter=fit_logistic, rotation_invariant=True),
    "ridge": Family(
        setting="alpha",
        values=lambda n: tuple(n * value for value in _spaced(2, -4, 25)),
        fitter=fit_ridge,
        rotation_invariant=True,
        scores_only=True,
        valid=(lambda value: value > 0, "more than 0"),
    ),
    "svm": Family(setting="C", values=lambda _: _spaced(-6, -1, 11), fitter=fit_svm, scores_only=True),
    "lda": Family(
        setting="shrinkage",
        values=lambda _: (0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01),
        fitter=fit_lda,
        rotation_invariant=True,
        valid=(lambda value: 0 < value <= 1, "more than 0, 1 at most"),
    ),
    "knn": Family(
        setting="neighbours",
        values=lambda n: tuple(float(k) for k in (50, 30, 20, 15, 10, 7, 5, 3, 1) if k <= n / 2),
        fitter=fit_knn,
        rotation_invariant=True,
        valid=(lambda value: value >= 1 and value == int(value), "a whole number, 1 or more"),
    ),
    "nb": Family(setting="smoothing", values=lambda _: _spaced(1, -9, 11), fitter=fit_nb),
    "mlp": Family(setting="alpha", values=lambda _: (1e-4,), fitter=fit_mlp),
}
"""The heads that are fitted so, by name."""
