"""Convert fitted scikit-learn estimators to Keras layers that give the same probabilities. Nothing is pickled.

`require_convertible` checks an estimator before it is fitted, `convert` turns a fitted one into steps, and `to_keras`
makes a model of them. A step is an `Affine` map or a function from one Keras tensor to the next; consecutive affine
maps become one layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import keras
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifier, RidgeClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from permafrost.errors import HeadError
from permafrost.heads.calibration import MIN_PROBABILITY


@dataclasses.dataclass(frozen=True)
class Affine:
    """`x @ kernel + bias`, or `x * kernel + bias` where the kernel is a factor for each feature.

    Attributes:
        kernel: (d, k) or (d,) float64.
        bias: (k,) or (d,) float64.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The map of x (n, d)."""
        mapped: np.ndarray = (x * self.kernel if self.kernel.ndim == 1 else x @ self.kernel) + self.bias
        return mapped

    def then(self, after: Affine) -> Affine:
        """This map and then another, as one."""
        if after.kernel.ndim == 1:
            return Affine(self.kernel * after.kernel, self.bias * after.kernel + after.bias)
        kernel = self.kernel[:, None] * after.kernel if self.kernel.ndim == 1 else self.kernel @ after.kernel
        return Affine(kernel, self.bias @ after.kernel + after.bias)

    def to_keras(self, x: Any, name: str, activation: str | None = None) -> Any:
        """The map as a layer on a Keras tensor (n, d)."""
        if self.kernel.ndim == 1:
            # As (x - mean) / scale, which keeps the digits that x / scale - mean / scale loses.
            layer = keras.layers.Normalization(name=name)
            layer.build(x.shape)
            layer.adapt_mean.assign(-self.bias / self.kernel)
            layer.adapt_variance.assign(self.kernel**-2.0)
            layer.finalize_state()
            scaled = layer(x)
            return scaled if activation is None else keras.layers.Activation(activation)(scaled)
        layer = keras.layers.Dense(self.kernel.shape[1], activation, name=name)
        outputs = layer(x)
        layer.set_weights([self.kernel.astype(np.float32), self.bias.astype(np.float32)])
        return outputs


Step = Affine | Callable[[Any], Any]


def softmax(x: Any) -> Any:
    """The step from logits (n, classes) to probabilities."""
    return keras.layers.Softmax(name="head_softmax")(x)


def to_keras(steps: Sequence[Step], shape: tuple[int, ...]) -> keras.Model:
    """A model from features to what the last step gives.

    Args:
        steps: from flattened features (n, d) on; the last one gives probabilities.
        shape: of one image's features.
    """
    steps = merged(steps)
    features = x = keras.Input(shape, name="features")
    if len(shape) > 1:
        x = keras.layers.Flatten(name="head_flatten")(x)
    for number, step in enumerate(steps, 1):
        following = steps[number] if number < len(steps) else None
        if isinstance(step, Affine) and following is softmax and step.kernel.ndim == 2:
            x = step.to_keras(x, "head_probabilities", "softmax")
            break
        x = step.to_keras(x, f"head_{number}") if isinstance(step, Affine) else step(x)
    return keras.Model(features, x, name="head")


def merged(steps: Sequence[Step]) -> list[Step]:
    """The same with affine maps that follow each other made one, where that takes fewer numbers."""
    result: list[Step] = []
    for step in steps:
        before = result[-1] if result else None
        if isinstance(step, Affine) and isinstance(before, Affine):
            one = before.then(step)
            if one.kernel.size <= before.kernel.size + step.kernel.size:
                result[-1] = one
                continue
        result.append(step)
    return result


def apply_temperature(model: keras.Model, factor: float) -> keras.Model:
    """A model whose logits are those of `model` times a factor, the inverse of a temperature.

    Args:
        model: from features to probabilities; its last layer is changed where that will do.
        factor: 1 leaves the model as it is.
    """
    if factor == 1:
        return model
    last = model.layers[-1]
    if isinstance(last, keras.layers.Dense) and last.activation is keras.activations.softmax:
        last.set_weights([factor * weights for weights in last.get_weights()])
        return model
    logits = keras.ops.log(keras.ops.maximum(model.outputs[0], MIN_PROBABILITY))
    calibrated = keras.layers.Rescaling(factor, name="head_temperature")(logits)
    return keras.Model(model.inputs[0], keras.layers.Softmax(name="head_calibrated")(calibrated), name="head")


def as_logits(coefficients: np.ndarray, intercepts: np.ndarray, *, symmetric: bool = False) -> Affine:
    """scikit-learn's coefficients (rows, d) and intercepts as a map to logits (n, classes).

    Args:
        coefficients, intercepts: one row a class; one row alone where there are two classes.
        symmetric: whether two classes' logits are -s and s, as scikit-learn calibrates them, rather than 0 and s.
    """
    coefficients, intercepts = np.atleast_2d(coefficients), np.atleast_1d(intercepts)
    if len(coefficients) == 1:
        first = -1.0 if symmetric else 0.0
        coefficients = np.concatenate([first * coefficients, coefficients])
        intercepts = np.concatenate([first * intercepts, intercepts])
    return Affine(coefficients.T.astype(np.float64), intercepts.astype(np.float64))


def require_convertible(estimator: BaseEstimator) -> None:
    """Refuse, before it is fitted, what cannot be converted into Keras layers.

    Args:
        estimator: a classifier, or a `Pipeline` that ends in one.

    Raises:
        HeadError: what cannot be converted is named, with the list of what can.
    """
    *transformers, classifier = _members(estimator)
    for member, table in [*((member, TRANSFORMERS) for member in transformers), (classifier, CLASSIFIERS)]:
        entry = table.get(type(member))
        reason = "is not among them" if entry is None else entry.refusal(member)
        if reason:
            kind = "transformer" if table is TRANSFORMERS else "classifier"
            raise HeadError(
                f"{type(member).__name__} cannot be converted into Keras layers: it {reason}",
                expected=f"as {kind} one of {', '.join(known.__name__ for known in table)}",
            )
    if isinstance(classifier, CalibratedClassifierCV):
        require_convertible(classifier.estimator)


def has_probabilities(estimator: BaseEstimator) -> bool:
    """Whether the classifier gives probabilities; those of `RidgeClassifier` and `LinearSVC` need calibration."""
    return not isinstance(_members(estimator)[-1], RidgeClassifier | RidgeClassifierCV | LinearSVC)


def convert(estimator: BaseEstimator) -> list[Step]:
    """A fitted estimator as steps from flattened features (n, d) to probabilities, as its `predict_proba` gives them.

    Args:
        estimator: fitted, and let pass by `require_convertible`.
    """
    *transformers, classifier = _members(estimator)
    before = [step for member in transformers for step in TRANSFORMERS[type(member)].convert(member)]
    return [*before, *CLASSIFIERS[type(classifier)].convert(classifier)]


def _members(estimator: BaseEstimator) -> list[Any]:
    """The steps of a pipeline, and of pipelines within it; an estimator itself is the only one of its own."""
    if not isinstance(estimator, Pipeline):
        return [estimator]
    named = (member for _, member in estimator.steps if member is not None and member != "passthrough")
    return [inner for member in named for inner in _members(member)]


@dataclasses.dataclass(frozen=True)
class _Converter:
    """How a class of estimators is converted.

    Attributes:
        convert: of a fitted one its steps.
        refusal: of one that is not fitted why it cannot be converted; empty where it can.
    """

    convert: Callable[[Any], list[Step]]
    refusal: Callable[[Any], str] = lambda _: ""


def _convert_standard(scaler: StandardScaler) -> list[Step]:
    count = scaler.n_features_in_
    scale = scaler.scale_ if scaler.with_std else np.ones(count)
    mean = scaler.mean_ if scaler.with_mean else np.zeros(count)
    return [Affine(1 / scale, -mean / scale)]


def _convert_pca(pca: PCA) -> list[Step]:
    kernel = pca.components_.T
    if pca.whiten:
        kernel = kernel / np.sqrt(np.maximum(pca.explained_variance_, np.finfo(pca.explained_variance_.dtype).eps))
    return [Affine(kernel, -pca.mean_ @ kernel)]


def _convert_normalizer(_: Normalizer) -> list[Step]:
    return [keras.layers.UnitNormalization(name="head_unit_norm")]


def _convert_linear(model: Any) -> list[Step]:
    return [as_logits(model.coef_, model.intercept_), softmax]


def _convert_neighbours(model: KNeighborsClassifier) -> list[Step]:
    """The nearest points have the largest x·p - |p|²/2; their labels, looked up in a table, are averaged."""
    points = np.asarray(model._fit_X, np.float64)
    table = np.eye(len(model.classes_), dtype=np.float32)[np.asarray(model._y).reshape(-1)]
    centre = points.mean(axis=0)  # Distances do not mind it, and float32 keeps more of their digits.
    points = points - centre

    def votes(nearness: Any) -> Any:
        _, nearest = keras.ops.top_k(nearness, model.n_neighbors)
        labels = keras.layers.Embedding(*table.shape, name="head_neighbour_labels")
        found = labels(nearest)
        labels.set_weights([table])
        return keras.ops.mean(found, axis=1)

    kernel = points.T
    return [Affine(np.ones(len(centre)), -centre), Affine(kernel, -np.square(points).sum(axis=1) / 2), votes]


def _refuse_neighbours(model: KNeighborsClassifier) -> str:
    if model.weights != "uniform":
        return "weighs neighbours by their distance, which float32 does not hold precisely enough near an image itself"
    euclidean = model.metric == "euclidean" or (model.metric == "minkowski" and model.p == 2)
    return "" if euclidean else "measures another distance than the Euclidean; for the cosine put Normalizer before it"


def _convert_bayes(model: GaussianNB) -> list[Step]:
    """Log likelihoods as sums of squares, class by class: as a polynomial in x they would lose their digits.

    What all classes have in common is taken off each square: the sums of hundreds of them would lose theirs, too.
    """
    mean, variance = model.theta_, model.var_
    prior = np.log(model.class_prior_) - 0.5 * np.log(2 * np.pi * variance).sum(axis=1)

    def squares(x: Any) -> Any:
        each = keras.layers.RepeatVector(len(mean), name="head_classes")(x)
        layer = keras.layers.Normalization(axis=(1, 2), name="head_class_scaling")
        layer.build(each.shape)
        layer.adapt_mean.assign(mean)
        layer.adapt_variance.assign(variance)
        layer.finalize_state()
        each = keras.ops.square(layer(each))
        return keras.ops.sum(each - keras.ops.mean(each, axis=1, keepdims=True), axis=-1)

    return [squares, Affine(-0.5 * np.eye(len(mean)), prior - prior.mean()), softmax]


def _convert_mlp(model: MLPClassifier) -> list[Step]:
    *hidden, last = zip(model.coefs_, model.intercepts_, strict=True)
    activation = {"identity": "linear", "logistic": "sigmoid"}.get(model.activation, model.activation)
    steps: list[Step] = []
    for kernel, bias in hidden:
        steps += [Affine(kernel, bias), keras.layers.Activation(activation)]
    return [*steps, as_logits(last[0].T, last[1]), softmax]


def _convert_calibrated(model: CalibratedClassifierCV) -> list[Step]:
    """One calibrated classifier, or the mean of several."""
    chains = [_convert_one_calibrated(member) for member in model.calibrated_classifiers_]
    if len(chains) == 1:
        return chains[0]

    def average(x: Any) -> Any:
        return keras.layers.Average(name="head_average")([_through(chain, x) for chain in chains])

    return [average]


def _convert_one_calibrated(member: Any) -> list[Step]:
    *transformers, model = _members(member.estimator)
    before = [step for part in transformers for step in TRANSFORMERS[type(part)].convert(part)]
    if member.method == "temperature":
        (calibrator,) = member.calibrators
        logits = as_logits(model.coef_, model.intercept_, symmetric=True)
        return [
            *before,
            logits,
            Affine(np.full(len(logits.bias), calibrator.beta_), np.zeros(len(logits.bias))),
            softmax,
        ]
    # Platt's sigmoid 1 / (1 + exp(a s + b)), for each class against the others.
    a = np.array([calibrator.a_ for calibrator in member.calibrators])
    b = np.array([calibrator.b_ for calibrator in member.calibrators])
    if len(a) == 1:
        return [*before, as_logits(-a[0] * model.coef_, -a[0] * model.intercept_ - b[0]), softmax]
    return [*before, as_logits(model.coef_, model.intercept_).then(Affine(-a, -b)), _normalised_sigmoid]


def _normalised_sigmoid(x: Any) -> Any:
    fractions = keras.ops.sigmoid(x)
    return fractions / keras.ops.sum(fractions, axis=-1, keepdims=True)


def _refuse_calibrated(model: CalibratedClassifierCV) -> str:
    if model.method not in ("temperature", "sigmoid"):
        return f"calibrates by {model.method}; temperature and sigmoid can be converted"
    linear = (LogisticRegression, LogisticRegressionCV, RidgeClassifier, RidgeClassifierCV, LinearSVC)
    if not isinstance(_members(model.estimator)[-1], (*linear, LinearDiscriminantAnalysis)):
        return "calibrates a classifier that is not linear"
    return ""


def _through(steps: Sequence[Step], x: Any) -> Any:
    for step in merged(steps):
        x = step.to_keras(x, f"head_{keras.backend.get_uid('head')}") if isinstance(step, Affine) else _unnamed(step)(x)
    return x


def _unnamed(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The step, its layer with a name of its own: several of a kind may stand in one model."""
    return (
        keras.layers.Softmax(name=f"head_softmax_{keras.backend.get_uid('head_softmax')}") if step is softmax else step
    )


def _refuse_liblinear(model: Any) -> str:
    # Its probabilities of more than two classes are sigmoids, normalised.
    return "is fitted by liblinear; take another solver" if model.solver == "liblinear" else ""


TRANSFORMERS: Final[dict[type, _Converter]] = {
    StandardScaler: _Converter(_convert_standard),
    MinMaxScaler: _Converter(
        lambda scaler: [Affine(scaler.scale_, scaler.min_)],
        lambda scaler: "clips its output" if scaler.clip else "",
    ),
    MaxAbsScaler: _Converter(
        lambda scaler: [Affine(1 / scaler.scale_, np.zeros(len(scaler.scale_)))],
        lambda scaler: "clips its output" if scaler.clip else "",
    ),
    Normalizer: _Converter(
        _convert_normalizer, lambda normalizer: "" if normalizer.norm == "l2" else "divides by another norm than l2"
    ),
    PCA: _Converter(_convert_pca),
    TruncatedSVD: _Converter(lambda svd: [Affine(svd.components_.T, np.zeros(len(svd.components_)))]),
}
"""Transformers that can be converted."""

CLASSIFIERS: Final[dict[type, _Converter]] = {
    LogisticRegression: _Converter(_convert_linear, _refuse_liblinear),
    LogisticRegressionCV: _Converter(_convert_linear, _refuse_liblinear),
    RidgeClassifier: _Converter(_convert_linear),
    RidgeClassifierCV: _Converter(_convert_linear),
    LinearSVC: _Converter(
        _convert_linear, lambda model: "" if model.multi_class == "ovr" else "is not one against the rest"
    ),
    LinearDiscriminantAnalysis: _Converter(_convert_linear),
    KNeighborsClassifier: _Converter(_convert_neighbours, _refuse_neighbours),
    GaussianNB: _Converter(_convert_bayes),
    MLPClassifier: _Converter(_convert_mlp),
    CalibratedClassifierCV: _Converter(_convert_calibrated, _refuse_calibrated),
}
"""Classifiers that can be converted."""
