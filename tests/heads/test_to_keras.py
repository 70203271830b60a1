"""scikit-learn estimators become Keras layers with equal probabilities, or are refused before they are fitted."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifier, RidgeClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, PowerTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from permafrost.errors import HeadError
from permafrost.heads.estimators import (
    CLASSIFIERS,
    TRANSFORMERS,
    convert,
    has_probabilities,
    require_convertible,
)
from permafrost.heads.to_keras import Affine, merged, to_keras

pytestmark = [
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:sklearn"),
]


def calibrated(model, **options) -> CalibratedClassifierCV:
    return CalibratedClassifierCV(model, **({"method": "temperature", "ensemble": False, "cv": 3} | options))


CONVERTIBLE = {
    "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
    "logistic by cross-validation": make_pipeline(TruncatedSVD(5), LogisticRegressionCV(Cs=2, cv=2)),
    "without a scaler": LogisticRegression(),
    "components": make_pipeline(StandardScaler(), PCA(5), LogisticRegression()),
    "whitened components and discriminants": make_pipeline(PCA(5, whiten=True), LinearDiscriminantAnalysis()),
    "discriminants, shrunk": make_pipeline(
        StandardScaler(with_mean=False), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    ),
    "neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier(7)),
    "neighbours by the cosine": make_pipeline("passthrough", Normalizer(), PCA(4), KNeighborsClassifier(5)),
    "bayes": make_pipeline(StandardScaler(), GaussianNB()),
    "bayes on features as they are": GaussianNB(),
    "network": make_pipeline(MinMaxScaler(), MLPClassifier((16, 8), max_iter=30)),
    "network of sigmoids": make_pipeline(MaxAbsScaler(), MLPClassifier((16,), activation="logistic", max_iter=30)),
    "ridge": calibrated(make_pipeline(StandardScaler(), RidgeClassifier())),
    "ridge by cross-validation": calibrated(RidgeClassifierCV()),
    "svm by Platt": calibrated(make_pipeline(StandardScaler(), LinearSVC()), method="sigmoid"),
    "svm calibrated within": make_pipeline(StandardScaler(), PCA(6), calibrated(LinearSVC())),
    "mean of calibrated": calibrated(make_pipeline(StandardScaler(), RidgeClassifier()), ensemble=True),
    "mean of calibrated by Platt": calibrated(LinearSVC(), ensemble=True, method="sigmoid"),
}


def draw(classes: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (90, 3, 4), never negative, one of them constant, and labels."""
    centres = np.random.default_rng(0).normal(0, 1, (classes, 3, 4))
    y = np.arange(90) % classes
    x = np.maximum(centres[y] + np.random.default_rng(seed).normal(0, 2, (90, 3, 4)) + 1, 0)
    x[:, 0, 0] = 0.5
    return x.astype(np.float32), y


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_converted_model_gives_scikit_learns_probabilities(name, classes):
    model = CONVERTIBLE[name]
    require_convertible(model)
    x, y = draw(classes, seed=1)
    model.fit(x.reshape(90, -1).astype(np.float64), y)

    converted = to_keras(convert(model), (3, 4))

    new, _ = draw(classes, seed=2)
    expected = model.predict_proba(new.reshape(90, -1).astype(np.float64))
    assert np.abs(keras.ops.convert_to_numpy(converted(new)) - expected).max() <= 1e-5


def test_bayes_is_precise_with_many_weak_features():
    random = np.random.default_rng(0)
    y = np.arange(600) % 2
    x = (random.normal(0, 3, (600, 2048)) + 0.1 * y[:, None] * random.normal(0, 1, 2048)).astype(np.float32)
    model = make_pipeline(StandardScaler(), GaussianNB(var_smoothing=1.0)).fit(x[:300].astype(np.float64), y[:300])

    converted = to_keras(convert(model), (2048,))

    expected = model.predict_proba(x.astype(np.float64))
    assert ((expected > 0.05) & (expected < 0.95)).mean() > 0.1
    assert np.abs(keras.ops.convert_to_numpy(converted(x)) - expected).max() <= 1e-5


@pytest.mark.parametrize("name", ["neighbours by the cosine", "bayes", "mean of calibrated by Platt"])
def test_a_converted_model_opens_in_safe_mode(name, tmp_path):
    x, y = draw(3, seed=1)
    converted = to_keras(convert(CONVERTIBLE[name].fit(x.reshape(90, -1).astype(np.float64), y)), (3, 4))
    converted.save(tmp_path / "head.keras")

    opened = keras.models.load_model(tmp_path / "head.keras", safe_mode=True)

    assert not any(isinstance(layer, keras.layers.Lambda) for layer in opened.layers)
    expected = keras.ops.convert_to_numpy(converted(x))
    assert np.array_equal(keras.ops.convert_to_numpy(opened(x)), expected)


def test_every_convertible_class_is_tested():
    tried = {type(member) for model in CONVERTIBLE.values() for member in members(model)}

    assert tried >= {*TRANSFORMERS, *CLASSIFIERS} - {str}


def members(model) -> list:
    steps = [step for _, step in model.steps] if hasattr(model, "steps") else [model]
    return steps + [inner for step in steps if hasattr(step, "estimator") for inner in members(step.estimator)]


REFUSED = {
    "a forest": (
        RandomForestClassifier(),
        "RandomForestClassifier cannot be converted to Keras layers: it is not supported",
    ),
    "a kernel": (make_pipeline(StandardScaler(), SVC()), "SVC cannot be converted"),
    "a power": (make_pipeline(PowerTransformer(), LogisticRegression()), "PowerTransformer cannot be converted"),
    "weighted neighbours": (KNeighborsClassifier(weights="distance"), "it weights neighbours by distance"),
    "another distance": (KNeighborsClassifier(metric="cosine"), "for cosine distance put Normalizer before it"),
    "isotonic": (calibrated(LinearSVC(), method="isotonic"), "calibrates by isotonic"),
    "a calibrated forest": (calibrated(RandomForestClassifier()), "calibrates a classifier that is not linear"),
    "a calibrated power": (calibrated(make_pipeline(PowerTransformer(), LinearSVC())), "PowerTransformer cannot be"),
    "another norm": (make_pipeline(Normalizer("l1"), LinearSVC()), "uses a norm other than l2"),
}


@pytest.mark.parametrize(("model", "line"), REFUSED.values(), ids=REFUSED)
def test_an_estimator_that_cannot_be_converted_is_refused_before_fitting_with_those_that_can(model, line):
    with pytest.raises(HeadError) as caught:
        require_convertible(model)

    assert line in str(caught.value)
    table = TRANSFORMERS if "these transformers" in str(caught.value) else CLASSIFIERS
    assert ", ".join(kind.__name__ for kind in table) in str(caught.value)


def test_estimators_without_probabilities_are_known():
    assert has_probabilities(make_pipeline(StandardScaler(), LogisticRegression()))
    assert not has_probabilities(make_pipeline(StandardScaler(), RidgeClassifier()))
    assert has_probabilities(calibrated(LinearSVC()))


def test_consecutive_affine_maps_are_merged_unless_that_takes_more_numbers():
    generator = np.random.default_rng(0)
    down = Affine(generator.normal(size=(6, 2)), generator.normal(size=2))
    up = Affine(generator.normal(size=(2, 9)), generator.normal(size=9))
    scale = Affine(generator.normal(size=6), generator.normal(size=6))
    x = generator.normal(size=(4, 6))

    assert len(merged([scale, down])) == 1
    assert np.allclose(merged([scale, down])[0](x), down(scale(x)))
    assert len(merged([scale, down, up])) == 2
    assert np.allclose(scale.then(down).then(up)(x), up(down(scale(x))))
