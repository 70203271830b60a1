"""Heads in Keras layers equal scikit-learn's; heads that Keras trains are independent of the features' scale."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from permafrost.errors import HeadError, OptionError
from permafrost.heads.classical_head import ClassicalHead
from permafrost.heads.estimator_head import EstimatorHead
from permafrost.heads.head import FittedHead, HeadData
from permafrost.heads.options import CLASSICAL_HEADS, HEADS, options_from
from permafrost.heads.table import find_head

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its own data pipeline is compiled all the same.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]

SHAPES = {"pooled": (6,), "maps": (3, 3, 4), "wide": (4, 4, 32)}
"""Fewer features than images, in one and in three dimensions, and more."""


def make_data(
    shape: tuple[int, ...] = (6,),
    *,
    classes: int = 3,
    count: int = 60,
    spread: float = 2.0,
    scale: float = 1.0,
    seed: int = 0,
) -> HeadData:
    """Return features around one centre per class, never negative, as after ReLU; one of them is constant."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 1, (classes, *shape))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % classes
        x = np.maximum(centres[y] + generator.normal(0, spread, (n, *shape)) + 1.0, 0)
        x[(..., 0)] = 0.5
        return (x * scale).astype(np.float32), y

    x, y = draw(count)
    validation_x, validation_y = draw(count // 3)
    return HeadData(
        x=x,
        y=y,
        validation_x=validation_x,
        validation_y=validation_y,
        class_names=tuple(f"class {number}" for number in range(classes)),
    )


def fit(name: str, data: HeadData, **settings) -> FittedHead:
    quick = {"epochs": 3, "batch_size": 64, "learning_rate": 0.01, "hidden": 8, "filters": 4}
    return find_head(name).fit(data, options_from(quick | settings, progress=False))


def outputs(fitted: FittedHead, x: np.ndarray) -> np.ndarray:
    return np.asarray(fitted.model.predict_on_batch(x))


def flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float64)


def accuracy(fitted: FittedHead, x: np.ndarray, y: np.ndarray) -> float:
    return float((outputs(fitted, x).argmax(axis=1) == y).mean())


def with_classes(data: HeadData, y: np.ndarray, names: tuple[str, ...]) -> HeadData:
    return HeadData(x=data.x, y=y, validation_x=None, validation_y=None, class_names=names)


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logistic_equals_scikit_learns_scaler_and_regression(shape, classes, class_weight):
    data = make_data(shape, classes=classes, count=61)
    # With more features than images scikit-learn's default tolerance stops up to 2e-3 short of the solution.
    tolerance = 1e-4 if np.prod(shape) < 61 else 1e-10
    weight = None if class_weight == "none" else class_weight
    regression = LogisticRegression(C=0.3, class_weight=weight, max_iter=1000, tol=tolerance)
    pipeline = make_pipeline(StandardScaler(), regression).fit(flat(data.x), data.y)

    fitted = fit("logistic", data, regularization=0.3, class_weight=class_weight)

    for x in (data.x, data.validation_x):
        expected = pipeline.predict_proba(flat(x))
        assert np.abs(outputs(fitted, x) - expected).max() <= 1e-5


@pytest.mark.parametrize("scale", [1e-5, 1e4])
def test_logistic_is_independent_of_the_scale_of_the_features(scale):
    plain, scaled = (fit("logistic", make_data(scale=factor), regularization=0.3) for factor in (1.0, scale))

    x = make_data().validation_x
    assert np.abs(outputs(plain, x) - outputs(scaled, x * np.float32(scale))).max() <= 1e-4


def test_logistic_is_one_dense_layer_from_features_to_probabilities():
    model = fit("logistic", make_data((3, 3, 4)), regularization=0.3).model

    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["InputLayer", "Flatten", "Dense"]
    assert model.inputs[0].shape == (None, 3, 3, 4)


def test_c_is_chosen_by_cross_validation_on_the_training_images_only_and_is_reproducible():
    data = make_data()
    without = with_classes(data, data.y, data.class_names)

    first, second = fit("logistic", data), fit("logistic", without)

    assert first.details["chosen_by"] == "cross-validation"
    assert first.details == second.details
    assert first.history == second.history
    assert np.array_equal(outputs(first, data.x), outputs(second, data.x))


def test_c_is_chosen_by_the_least_loss():
    fitted = fit("logistic", make_data(count=120))

    best = min(fitted.history, key=lambda row: row["cross_validation_log_loss"])
    assert fitted.details["C"] == best["C"]
    assert [row["C"] for row in fitted.history] == list(find_head("logistic").values(120)[: len(fitted.history)])


def test_a_flat_start_of_the_path_does_not_end_the_comparison():
    random = np.random.default_rng(0)
    y = np.arange(18) % 3
    x = np.abs(random.normal(size=(18, 16))).astype(np.float32)
    x[np.arange(18), y] += 1.5

    data = dataclasses.replace(make_data(), x=x, y=y, validation_x=None, validation_y=None)
    history = fit("logistic", data, scaling="centred").history

    losses = [row["cross_validation_log_loss"] for row in history]
    assert min(losses[:4]) > 0.9 * np.log(3)
    assert min(losses) < 0.5


def test_cross_validation_losses_equal_scikit_learns():
    from sklearn.metrics import log_loss

    data = make_data()
    x = StandardScaler().fit_transform(flat(data.x))
    row = fit("logistic", data).history[8]
    losses = []
    for train, held_out in StratifiedKFold(5, shuffle=True, random_state=0).split(x, data.y):
        model = LogisticRegression(C=row["C"], max_iter=1000).fit(x[train], data.y[train])
        losses.append(log_loss(data.y[held_out], model.predict_proba(x[held_out])))

    assert row["cross_validation_log_loss"] == pytest.approx(np.mean(losses), abs=1e-3)
    assert row["standard_error"] == pytest.approx(np.std(losses, ddof=1) / 5**0.5, abs=1e-3)


def test_a_given_c_is_used_without_a_comparison():
    fitted = fit("logistic", make_data(), regularization=0.25)

    assert fitted.details == {"C": 0.25, "chosen_by": "option"}
    assert fitted.history == []


def test_balanced_class_weights_raise_the_probability_of_a_rare_class():
    data = make_data(classes=2)
    data = with_classes(data, (np.arange(60) % 6 == 0).astype(np.int64), data.class_names)

    plain, balanced = (
        fit("logistic", data, regularization=0.1, class_weight=weight) for weight in ("none", "balanced")
    )

    assert outputs(balanced, data.x)[:, 1].mean() > outputs(plain, data.x)[:, 1].mean() + 0.1


def test_a_class_with_a_single_image_is_refused_if_c_is_chosen():
    data = make_data(classes=2)
    y = np.zeros(60, np.int64)
    y[7] = 1

    with pytest.raises(HeadError) as caught:
        fit("logistic", with_classes(data, y, ("cats", "dogs")))

    assert str(caught.value) == (
        "class dogs has too few training images to choose C by cross-validation; expected at least 2, found 1. "
        "Add images of it, or give --regularization"
    )


def test_a_class_with_a_single_image_is_fitted_with_a_given_c():
    data = make_data(classes=2)
    y = np.zeros(60, np.int64)
    y[7] = 1

    fitted = fit("logistic", with_classes(data, y, ("cats", "dogs")), regularization=1.0)

    assert outputs(fitted, data.x).shape == (60, 2)


def test_two_images_per_class_are_enough_to_choose_c():
    data = make_data(count=6)

    assert fit("logistic", data).details["C"] in find_head("logistic").values(6)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_c_that_is_not_positive_is_refused(value):
    with pytest.raises(OptionError, match=f"C is out of range; expected more than 0, found {value}"):
        fit("logistic", make_data(), regularization=value)


@pytest.mark.parametrize(
    ("hidden", "dropout", "dense", "dropouts"),
    [((8,), 0.0, 2, 0), ((8, 5), 0.3, 3, 2), ((), 0.0, 1, 0)],
    ids=["one hidden layer", "two with dropout", "none"],
)
def test_dense_has_the_requested_layers(hidden, dropout, dense, dropouts):
    data = make_data((3, 3, 4))

    fitted = fit("dense", data, hidden=hidden, dropout=dropout, epochs=1)

    layers = fitted.model.layers
    assert [layer.units for layer in layers if isinstance(layer, keras.layers.Dense)] == [*hidden, 3]
    assert sum(isinstance(layer, keras.layers.Dense) for layer in layers) == dense
    assert [layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)] == [dropout] * dropouts
    assert np.allclose(outputs(fitted, data.x).sum(axis=1), 1, atol=1e-5)
    assert fitted.details["parameters"] == fitted.model.count_params()


@pytest.mark.parametrize("scale", [1e-5, 1e4])
def test_dense_fits_features_of_any_scale_equally_well(scale):
    plain, scaled = (
        fit("dense", make_data(spread=0.3, scale=factor), hidden=(), learning_rate=0.3) for factor in (1.0, scale)
    )

    data = make_data(spread=0.3)
    assert accuracy(plain, data.validation_x, data.validation_y) >= 0.9
    assert np.abs(outputs(plain, data.x) - outputs(scaled, data.x * np.float32(scale))).max() <= 1e-2


def test_the_same_seed_gives_the_same_dense_head_and_another_seed_another():
    data = make_data()
    first, second, other = (outputs(fit("dense", data, seed=seed, dropout=0.2, epochs=2), data.x) for seed in (1, 1, 2))

    assert np.array_equal(first, second)
    assert not np.allclose(first, other, atol=1e-3)


def test_dense_records_its_epochs_and_the_best_one():
    fitted = fit("dense", make_data(), epochs=3, patience=0)

    best = min(fitted.history, key=lambda row: row["val_loss"])
    assert fitted.details["epochs"] == len(fitted.history) == 3
    assert fitted.details["best_epoch"] == best["epoch"]


def test_with_min_delta_the_best_epoch_is_the_one_whose_weights_the_head_has():
    data = make_data()
    losses = [row["val_loss"] for row in fit("dense", data, epochs=4, patience=0).history]

    fitted = fit("dense", data, epochs=4, patience=0, min_delta=losses[0] - losses[1] + 1e-6)

    best = fitted.details["best_epoch"]
    chosen = outputs(fitted, data.validation_x)[np.arange(len(data.validation_y)), data.validation_y]
    assert best < int(np.argmin(losses)) + 1
    assert -np.log(chosen).mean() == pytest.approx(fitted.history[best - 1]["val_loss"], abs=1e-4)


def test_dense_without_validation_images_is_refused_unless_it_monitors_training():
    data = make_data()
    data = with_classes(data, data.y, data.class_names)

    with pytest.raises(OptionError, match="cannot monitor val_loss: there are no validation images"):
        fit("dense", data)

    assert fit("dense", data, monitor="loss", epochs=1).history[0].keys() == {"epoch", "loss", "accuracy"}


def test_features_that_are_the_same_for_all_images_are_refused_by_dense():
    data = make_data()
    data = HeadData(
        x=np.ones_like(data.x), y=data.y, validation_x=None, validation_y=None, class_names=data.class_names
    )

    with pytest.raises(HeadError, match=r"all images have the same features.*Extract at another cut"):
        fit("dense", data, monitor="loss")


def twin(name: str, data: HeadData, value: float, weight: str | None, x: np.ndarray) -> np.ndarray:
    """Return the probabilities for x of the same head in scikit-learn."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    classes = len(data.class_names)
    priors = np.full(classes, 1 / classes) if weight else None
    models = {
        "ridge": lambda: RidgeClassifier(alpha=value, class_weight=weight),
        "svm": lambda: LinearSVC(C=value, class_weight=weight, random_state=0, max_iter=1000),
        "lda": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=value, priors=priors),
        "knn": lambda: KNeighborsClassifier(int(value)),
        "nb": lambda: GaussianNB(var_smoothing=value, priors=priors),
    }
    model = models[name]()
    if name in ("ridge", "svm"):
        model = CalibratedClassifierCV(model, method="temperature", ensemble=False, cv=folds)
    model = make_pipeline(StandardScaler(), model)
    return model.fit(flat(data.x), data.y).predict_proba(flat(x))


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shape", [(6,), (4, 4, 8)], ids=["pooled", "more features than images"])
@pytest.mark.parametrize(
    ("name", "value"), [("ridge", 30.0), ("svm", 0.003), ("lda", 0.4), ("knn", 7), ("nb", 1e-3)], ids=lambda x: str(x)
)
def test_a_classical_head_equals_scikit_learns(name, value, shape, classes, class_weight):
    data = make_data(shape, classes=classes, count=61, spread=2.0 if len(shape) == 1 else 8.0)
    setting = {"neighbours": int(value)} if name == "knn" else {"regularization": value}

    fitted = fit(name, data, class_weight=class_weight, **setting)

    expected = twin(name, data, value, None if class_weight == "none" else class_weight, data.validation_x)
    found = outputs(fitted, data.validation_x)
    # scikit-learn's calibrator does not weight classes, so only the temperature differs a little.
    apart = name in ("ridge", "svm") and class_weight == "balanced"
    assert np.abs(found - expected).max() <= (0.05 if apart else 1e-5)
    assert not apart or temperature_apart(found, expected) <= 1e-4


def temperature_apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of probabilities after the best temperature is removed."""
    ours, theirs = np.log(found.astype(np.float64)), np.log(expected)
    ours, theirs = (logits - logits.mean(axis=1, keepdims=True) for logits in (ours, theirs))
    calibrated = np.exp(ours * (ours * theirs).sum() / np.square(ours).sum())
    return float(np.abs(calibrated / calibrated.sum(axis=1, keepdims=True) - expected).max())


@pytest.mark.parametrize("name", sorted(set(CLASSICAL_HEADS) - {"mlp"}))
def test_a_setting_is_chosen_by_the_least_loss(name):
    data = make_data(count=90)
    head = find_head(name)

    fitted = fit(name, data)

    best = min(fitted.history, key=lambda row: row["cross_validation_log_loss"])
    assert fitted.details[head.setting] == best[head.setting]
    assert [row[head.setting] for row in fitted.history] == list(head.values(90)[: len(fitted.history)])
    assert fitted.held_out_logits.shape == (90, 3)


def test_principal_components_equal_scikit_learns():
    data = make_data((3, 3, 4))
    pipeline = make_pipeline(StandardScaler(), PCA(5, random_state=0), LogisticRegression(C=0.3, max_iter=1000))
    expected = pipeline.fit(flat(data.x), data.y).predict_proba(flat(data.x))

    fitted = fit("logistic", data, regularization=0.3, pca=5)

    assert np.abs(outputs(fitted, data.x) - expected).max() <= 1e-5
    assert fitted.details["pca"] == 5
    assert 0 < fitted.details["pca_variance"] < 1
    assert [type(layer).__name__ for layer in fitted.model.layers][-1] == "Dense"


@pytest.mark.parametrize("pca", [0, -1, 2.5, 1000])
def test_an_impossible_number_of_components_is_refused(pca):
    with pytest.raises(OptionError, match=f"no such number of principal components; .* 1 to 36, found {pca}"):
        fit("lda", make_data((3, 3, 4)), pca=pca)


def test_conv_has_the_requested_layers():
    fitted = fit("conv", make_data((5, 5, 4)), epochs=1, filters=(6, 7), filter_dropout=(0.25, 0), hidden=9, l2=0.01)

    kinds = [type(layer).__name__ for layer in fitted.model.layers]
    expected = (
        "InputLayer Normalization Conv2D ReLU MaxPooling2D Dropout Conv2D ReLU MaxPooling2D Flatten Dense ReLU Dense"
    )
    assert kinds == expected.split()
    assert [layer.filters for layer in fitted.model.layers if isinstance(layer, keras.layers.Conv2D)] == [6, 7]
    assert all(layer.kernel_regularizer for layer in fitted.model.layers if isinstance(layer, keras.layers.Dense))


def test_dense_normalises_batches_before_each_activation():
    fitted = fit("dense", make_data(), epochs=1, hidden=(9, 5), batch_norm=True)

    kinds = [type(layer).__name__ for layer in fitted.model.layers]
    assert kinds == ["InputLayer", "Normalization", *["Dense", "BatchNormalization", "ReLU"] * 2, "Dense"]


def test_linear_is_one_layer():
    kinds = [type(layer).__name__ for layer in fit("linear", make_data(), epochs=1).model.layers]

    assert kinds == ["InputLayer", "Normalization", "Dense"]


def test_conv_on_pooled_features_is_refused():
    with pytest.raises(HeadError) as caught:
        fit("conv", make_data())

    assert str(caught.value) == (
        "conv needs maps of features; expected features of shape (height, width, channels), found (6,). "
        "Extract with --pool none, or take --head dense"
    )


def test_a_pipeline_without_probabilities_is_calibrated():
    data = make_data()
    options = options_from({}, progress=False)
    own = make_pipeline(StandardScaler(), LinearSVC(C=0.01))

    fitted = EstimatorHead(own).fit(data, options)

    assert np.abs(outputs(fitted, data.x).sum(axis=1) - 1).max() <= 1e-5
    own.fit(flat(data.x), data.y)
    assert np.array_equal(outputs(fitted, data.x).argmax(axis=1), own.predict(flat(data.x)))


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("ridge", {"regularization": 0}, "alpha is out of range; expected more than 0, found 0"),
        ("lda", {"regularization": 1.5}, "shrinkage is out of range; expected more than 0, at most 1, found 1.5"),
        ("knn", {"neighbours": 0}, "neighbours is out of range; expected a whole number, 1 or more, found 0"),
        ("knn", {"neighbours": 61}, "more neighbours than training images; expected at most 60, found 61"),
    ],
)
def test_a_setting_out_of_range_is_one_clear_line(name, settings, line):
    with pytest.raises(OptionError) as caught:
        fit(name, make_data(), **settings)

    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"hidden": (8, 0)}, "a hidden layer needs units; expected 1 or more, found 0"),
        ({"dropout": 1.0}, "dropout is out of range; expected at least 0, less than 1, found 1.0"),
        ({"dropout": -0.5}, "dropout is out of range; expected at least 0, less than 1, found -0.5"),
        ({"l2": -1}, "l2 is out of range; expected at least 0, found -1"),
        ({"filters": 0}, "a convolution needs filters; expected 1 or more, found 0"),
    ],
)
def test_an_option_of_dense_that_is_not_permitted_is_one_clear_line(options, line):
    with pytest.raises(OptionError) as caught:
        fit("dense", make_data(), **options)

    assert str(caught.value) == line


@pytest.mark.parametrize(("name", "near"), [("logistik", "logistic"), ("dens", "dense"), ("Dense", "dense")])
def test_an_unknown_head_is_refused_with_the_nearest_name(name, near):
    with pytest.raises(OptionError, match=f"unknown head {name}; expected .*{near}"):
        find_head(name)


def test_every_name_has_a_head():
    heads = {name: find_head(name) for name in HEADS}

    assert all(head.name == name for name, head in heads.items())
    assert {name for name, head in heads.items() if isinstance(head, ClassicalHead)} == set(CLASSICAL_HEADS)


@pytest.mark.parametrize("name", sorted(HEADS))
@pytest.mark.parametrize("shape", [(6,), (3, 3, 4)], ids=["pooled", "maps"])
def test_every_head_gives_probabilities_with_built_in_keras_layers(name, shape):
    if name == "conv" and len(shape) == 1:
        pytest.skip("conv is for maps")
    data = make_data(shape)

    fitted = fit(name, data, epochs=1)

    found = outputs(fitted, data.x[:5])
    assert found.shape == (5, 3)
    assert np.all(found >= 0)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    assert all(type(layer).__module__.startswith("keras.") for layer in fitted.model.layers)
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in fitted.model.layers)
