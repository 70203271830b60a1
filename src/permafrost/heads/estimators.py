"""Convert fitted scikit-learn estimators to Keras layers that give the same probabilities. Nothing is pickled."""

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
from permafrost.heads.head import too_many_neighbours
from permafrost.heads.to_keras import Affine, Step, as_logits, merged, normalization, softmax


def require_convertible(estimator: BaseEstimator) -> None:
    """Check, before fitting, that an estimator can be converted to Keras layers.

    Args:
        estimator: a classifier, or a `Pipeline` that ends in one.

    Raises:
        HeadError: a part cannot be converted; the message names it and lists the classes that can.
    """
    if isinstance(estimator, type):
        raise HeadError(f"{estimator.__name__} is a class", expected="an estimator", do=f"give {estimator.__name__}()")
    if not _members(estimator):
        raise HeadError("a pipeline without steps", expected="one that ends in a classifier", found=repr(estimator))
    *transformers, classifier = _members(estimator)
    for member, table in [*((member, TRANSFORMERS) for member in transformers), (classifier, CLASSIFIERS)]:
        entry = table.get(type(member))
        reason = "is not supported" if entry is None else entry.refusal(member)
        if reason:
            kind = "transformer" if table is TRANSFORMERS else "classifier"
            raise HeadError(
                f"{type(member).__name__} cannot be converted to Keras layers: it {reason}",
                expected=f"one of these {kind}s: {', '.join(known.__name__ for known in table)}",
            )
    if isinstance(classifier, CalibratedClassifierCV):
        require_convertible(classifier.estimator)


def has_probabilities(estimator: BaseEstimator) -> bool:
    """Return whether the classifier gives probabilities; `RidgeClassifier` and `LinearSVC` need calibration."""
    return not isinstance(_members(estimator)[-1], RidgeClassifier | RidgeClassifierCV | LinearSVC)


def passes_gradient(estimator: BaseEstimator) -> bool:
    """Return whether the converted classifier passes a useful gradient to its features."""
    return CLASSIFIERS[type(_members(estimator)[-1])].passes_gradient


def convert(estimator: BaseEstimator) -> list[Step]:
    """Convert a fitted estimator to steps from flattened features (n, d) to the probabilities of its `predict_proba`.

    Args:
        estimator: a fitted estimator, checked by `require_convertible`.

    Raises:
        OptionError: it has more neighbours than training images, which scikit-learn finds only when it predicts.
    """
    *transformers, classifier = _members(estimator)
    return [*_convert_transformers(transformers), *CLASSIFIERS[type(classifier)].convert(classifier)]


def _convert_transformers(transformers: Sequence[Any]) -> list[Step]:
    return [step for member in transformers for step in TRANSFORMERS[type(member)].convert(member)]


def _members(estimator: BaseEstimator) -> list[Any]:
    """Return the steps of a pipeline and of pipelines within it; an estimator is its own single step."""
    if not isinstance(estimator, Pipeline):
        return [estimator]
    named = (member for _, member in estimator.steps if member is not None and member != "passthrough")
    return [inner for member in named for inner in _members(member)]


@dataclasses.dataclass(frozen=True)
class _Converter:
    """The conversion of a class of estimators.

    Attributes:
        convert: returns the steps of a fitted estimator.
        refusal: returns why an estimator cannot be converted; empty if it can.
        passes_gradient: whether the converted estimator passes a useful gradient.
    """

    convert: Callable[[Any], list[Step]]
    refusal: Callable[[Any], str] = lambda _: ""
    passes_gradient: bool = True


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
    """Average the labels of the nearest points, which have the largest x·p - |p|²/2."""
    points, count = np.asarray(model._fit_X, np.float64), int(model.n_neighbors)
    if count > len(points):
        raise too_many_neighbours(count, len(points))
    table = np.eye(len(model.classes_), dtype=np.float32)[np.asarray(model._y).reshape(-1)]
    centre = points.mean(axis=0)  # Distances are translation-invariant; near 0 float32 keeps more digits.
    points = points - centre

    def votes(nearness: Any) -> Any:
        _, nearest = keras.ops.top_k(nearness, count)
        labels = keras.layers.Embedding(*table.shape, name="head_neighbour_labels")
        found = labels(nearest)
        labels.set_weights([table])
        return keras.ops.mean(found, axis=1)

    kernel = points.T
    return [Affine(np.ones(len(centre)), -centre), Affine(kernel, -np.square(points).sum(axis=1) / 2), votes]


def _refuse_neighbours(model: KNeighborsClassifier) -> str:
    if model.weights != "uniform":
        return "weights neighbours by distance, which is not precise enough in float32 close to a training image"
    euclidean = model.metric == "euclidean" or (model.metric == "minkowski" and model.p == 2)
    return "" if euclidean else "uses a distance that is not Euclidean; for cosine distance put Normalizer before it"


def _convert_bayes(model: GaussianNB) -> list[Step]:
    """Compute log likelihoods as sums of squares per class: a polynomial in x would lose digits.

    The mean over the classes is subtracted from each square: sums of hundreds of squares would lose digits, too.
    """
    mean, variance = model.theta_, model.var_
    prior = np.log(model.class_prior_) - 0.5 * np.log(2 * np.pi * variance).sum(axis=1)

    def squares(x: Any) -> Any:
        each = keras.layers.RepeatVector(len(mean), name="head_classes")(x)
        scaled = normalization(each.shape, mean, variance, name="head_class_scaling", axis=(1, 2))(each)
        each = keras.ops.square(scaled)
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
    """Convert a calibrated classifier, or the mean of several."""
    chains = [_convert_one_calibrated(member) for member in model.calibrated_classifiers_]
    if len(chains) == 1:
        return chains[0]

    def average(x: Any) -> Any:
        return keras.layers.Average(name="head_average")([_through(chain, x) for chain in chains])

    return [average]


def _convert_one_calibrated(member: Any) -> list[Step]:
    *transformers, model = _members(member.estimator)
    before = _convert_transformers(transformers)
    if member.method == "temperature":
        beta = member.calibrators[0].beta_
        return [*before, as_logits(beta * model.coef_, beta * model.intercept_, symmetric=True), softmax]
    # Platt's sigmoid 1 / (1 + exp(a s + b)) for each class against the others.
    a = np.array([calibrator.a_ for calibrator in member.calibrators])
    b = np.array([calibrator.b_ for calibrator in member.calibrators])
    if len(a) == 1:
        return [*before, as_logits(-a[0] * model.coef_, -a[0] * model.intercept_ - b[0]), softmax]
    return [*before, as_logits(model.coef_, model.intercept_).then(Affine(-a, -b)), _normalised_sigmoid]


def _normalised_sigmoid(x: Any) -> Any:
    values = keras.ops.sigmoid(x)
    return values / keras.ops.sum(values, axis=-1, keepdims=True)


def _refuse_calibrated(model: CalibratedClassifierCV) -> str:
    if model.method not in ("temperature", "sigmoid"):
        return f"calibrates by {model.method}; temperature and sigmoid can be converted"
    linear = (LogisticRegression, LogisticRegressionCV, RidgeClassifier, RidgeClassifierCV, LinearSVC)
    if not isinstance(_members(model.estimator)[-1], (*linear, LinearDiscriminantAnalysis)):
        return "calibrates a classifier that is not linear"
    return ""


def _through(steps: Sequence[Step], x: Any) -> Any:
    """Apply steps to a Keras tensor, with layer names of their own: a model has several chains of steps."""
    for step in merged(steps):
        if isinstance(step, Affine):
            x = step.to_keras(x, f"head_{keras.backend.get_uid('head')}")
        elif step is softmax:
            x = keras.layers.Softmax(name=f"head_softmax_{keras.backend.get_uid('head_softmax')}")(x)
        else:
            x = step(x)
    return x


def _refuse_liblinear(model: Any) -> str:
    # The probabilities of liblinear for more than two classes are normalised sigmoids.
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
        _convert_normalizer, lambda normalizer: "" if normalizer.norm == "l2" else "uses a norm other than l2"
    ),
    PCA: _Converter(_convert_pca),
    TruncatedSVD: _Converter(lambda svd: [Affine(svd.components_.T, np.zeros(len(svd.components_)))]),
}
"""Transformers that can be converted to Keras layers."""

CLASSIFIERS: Final[dict[type, _Converter]] = {
    LogisticRegression: _Converter(_convert_linear, _refuse_liblinear),
    LogisticRegressionCV: _Converter(_convert_linear, _refuse_liblinear),
    RidgeClassifier: _Converter(_convert_linear),
    RidgeClassifierCV: _Converter(_convert_linear),
    LinearSVC: _Converter(
        _convert_linear, lambda model: "" if model.multi_class == "ovr" else "is not one against the rest"
    ),
    LinearDiscriminantAnalysis: _Converter(_convert_linear),
    KNeighborsClassifier: _Converter(_convert_neighbours, _refuse_neighbours, passes_gradient=False),
    GaussianNB: _Converter(_convert_bayes),
    MLPClassifier: _Converter(_convert_mlp),
    CalibratedClassifierCV: _Converter(_convert_calibrated, _refuse_calibrated),
}
"""Classifiers that can be converted to Keras layers."""
