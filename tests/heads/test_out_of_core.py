"""Features that stay on disk give the same heads as in memory; heads that need them in memory are refused."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import permafrost as pf
from helpers import files_below, one_error_line
from permafrost.errors import HeadError, OptionError
from permafrost.heads.closed_forms import Moments
from permafrost.heads.data import load_fit_data
from permafrost.heads.head import HeadData
from permafrost.heads.options import options_from
from permafrost.heads.out_of_core import fit_out_of_core, gather_moments
from permafrost.heads.table import find_head
from permafrost.store.feature_set import FeatureSet
from permafrost.store.shard import Rows
from permafrost.store.streaming import FeatureRows
from samples import spec_with, write_parts

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its own data pipeline is compiled all the same.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]

COUNT, FEATURES, CLASSES = 600, 8, 3
LIMIT = 8000


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A set of 600 rows (8,) of three classes, one class after the other, in shards of 50 rows."""
    folder = tmp_path_factory.mktemp("cached")
    generator = np.random.default_rng(0)
    spec = spec_with(shapes=((FEATURES,),))
    labels = np.sort(np.arange(COUNT) % CLASSES)
    centres = generator.normal(0, 1, (CLASSES, FEATURES))
    x = (centres[labels] + generator.normal(0, 1.5, (COUNT, FEATURES)) + 50).astype(np.float32)
    x[:, 0] = 3.0
    rows = Rows(generator.integers(0, 256, (COUNT, 32), dtype=np.uint8), np.zeros(COUNT, np.int32), (x,))
    return write_parts(
        folder,
        rows,
        [slice(start, start + 50) for start in range(0, COUNT, 50)],
        spec=spec,
        labels=labels,
        splits=(np.arange(COUNT) % 10 == 0).astype(np.uint8),
        class_names=("a", "b", "c"),
    )


def streamed(features, *, limit: int = LIMIT) -> HeadData:
    """Return what a head is fitted to with a small memory limit."""
    stream = FeatureRows(features, features.rows("train"), memory_limit=limit)
    sample = stream.sample(LIMIT // 4, seed=0)
    x, y = features.arrays("validation")
    return HeadData(
        x=stream.load(sample),
        y=stream.labels[sample],
        validation_x=x,
        validation_y=y,
        class_names=tuple(features.class_names),
        stream=stream,
    )


def outputs(fitted, x: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(fitted.model(x))


@pytest.mark.parametrize("name", ["ridge", "lda"])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_a_head_from_moments_equals_scikit_learns_in_memory(cached, name, class_weight):
    x, y = cached.arrays("train")
    value = {"ridge": 20.0, "lda": 0.3}[name]
    models = {
        "ridge": RidgeClassifier(alpha=value, class_weight=None if class_weight == "none" else "balanced"),
        "lda": LinearDiscriminantAnalysis(
            solver="lsqr", shrinkage=value, priors=None if class_weight == "none" else np.full(3, 1 / 3)
        ),
    }
    twin = make_pipeline(StandardScaler(), models[name]).fit(x.astype(np.float64), y)

    fitted = fit_out_of_core(
        find_head(name),
        streamed(cached),
        options_from({"regularization": value, "class_weight": class_weight}, progress=False),
    )

    logits = np.log(outputs(fitted, x).astype(np.float64)) / fitted.details.get("inverse_temperature", 1.0)
    expected = twin.decision_function(x.astype(np.float64))
    found, wanted = (scores - scores.mean(axis=1, keepdims=True) for scores in (logits, expected))
    assert np.abs(found - wanted).max() <= 2e-4 * np.abs(wanted).max()
    assert fitted.details["fitted"].startswith("in one pass over")


def test_a_setting_is_chosen_on_the_validation_rows(cached):
    fitted = fit_out_of_core(find_head("ridge"), streamed(cached), options_from({}, progress=False))

    best = min(fitted.history, key=lambda row: row["validation_log_loss"])
    assert (fitted.details["alpha"], fitted.details["chosen_by"]) == (best["alpha"], "validation")


@pytest.mark.parametrize(("name", "value"), [("ridge", 0.0), ("lda", 1.5), ("logistic", -1.0)])
def test_a_setting_out_of_range_is_refused_on_disk_too(cached, name, value):
    with pytest.raises(OptionError, match="is out of range; expected more than 0"):
        fit_out_of_core(find_head(name), streamed(cached), options_from({"regularization": value}, progress=False))


@pytest.mark.parametrize("scaling", ["standard", "centred"])
@pytest.mark.parametrize("weights", [(1.0, 2.0, 0.5), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)])
def test_moments_gathered_by_blocks_equal_those_of_the_scaled_rows(cached, weights, scaling):
    rows = FeatureRows(cached, cached.rows("train"), memory_limit=LIMIT)
    x, y = cached.arrays("train")

    moments, affine = gather_moments(rows, np.array(weights), scaling)

    expected = Moments.of(affine(x.astype(np.float64)), y, np.array(weights))
    for found, wanted in zip(dataclasses.astuple(moments), dataclasses.astuple(expected), strict=True):
        assert np.allclose(found, wanted, atol=2e-3)
    scaled = affine(x.astype(np.float64))
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-4)
    assert np.isclose(scaled.var(axis=0)[1:].mean(), 1, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_by_passes_equals_scikit_learns_in_memory(cached, classes):
    data = streamed(cached, limit=100 * LIMIT)
    stream = data.stream
    if classes == 2:
        chosen = np.flatnonzero(stream.labels < 2)
        stream = FeatureRows(cached, cached.rows("train")[chosen], memory_limit=100 * LIMIT)
        sample = stream.sample(LIMIT // 4, seed=0)
        data = dataclasses.replace(
            data, x=stream.load(sample), y=stream.labels[sample], stream=stream, class_names=("a", "b")
        )
    x, y = stream.load(np.arange(len(stream))), stream.labels
    twin = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, tol=1e-8, max_iter=1000))
    expected = twin.fit(x.astype(np.float64), y).predict_proba(x.astype(np.float64))

    fitted = fit_out_of_core(find_head("logistic"), data, options_from({"regularization": 0.05}, progress=False))

    assert np.abs(outputs(fitted, x) - expected).max() <= 2e-3
    assert 1 < fitted.details["passes"] <= 60


def test_keras_trains_on_all_rows_by_batches(cached):
    options = options_from({"hidden": 8, "epochs": 3, "batch_size": 64, "learning_rate": 0.01}, progress=False)

    fitted = fit_out_of_core(find_head("dense"), streamed(cached, limit=10 * LIMIT), options)

    x, y = cached.arrays("train")
    assert (outputs(fitted, x).argmax(axis=1) == y).mean() >= 0.5
    assert fitted.details["fitted"].startswith("in shuffled batches of 64")


def test_a_head_that_needs_memory_is_refused_and_the_heads_that_do_not_are_named(cached):
    with pytest.raises(HeadError) as caught:
        fit_out_of_core(find_head("knn"), streamed(cached), options_from({}, progress=False))

    line = one_error_line(caught.value)
    assert line.startswith("knn needs all features in memory; expected 4 times")
    assert line.endswith("larger --memory-limit, or take --head dense, linear, conv, logistic, ridge, lda")


def test_features_whose_products_do_not_fit_are_refused(cached):
    with pytest.raises(HeadError, match=r"lda needs 6 matrices of 8 by 8 features in memory; .*--pool avg"):
        fit_out_of_core(find_head("lda"), streamed(cached, limit=3000), options_from({}, progress=False))


def test_a_run_can_be_fitted_from_disk_and_records_it(maps, tmp_path):
    run = pf.fit_head(maps, "linear", memory_limit=100_000, epochs=1, out=tmp_path / "run", progress=False)

    assert run.about["details"]["fitted"].startswith("in shuffled batches of 32, read from disk")
    assert [run.metrics[split]["n"] for split in ("train", "validation", "test")] == [18, 9, 9]
    assert run.about["parity"]["resized_max_difference"] <= 1e-4


@pytest.mark.parametrize("head", ["auto", make_pipeline(StandardScaler(), RidgeClassifier())], ids=["auto", "pipeline"])
def test_comparisons_and_estimators_are_refused_beyond_the_memory_limit(maps, head, tmp_path):
    with pytest.raises(HeadError, match=r"all features in memory; expected 4 times the features.*one head by its"):
        pf.fit_head(maps, head, memory_limit=100_000, out=tmp_path / "run", progress=False)

    assert files_below(tmp_path) == []


@pytest.mark.parametrize("limit", [400_000, 10**9])
def test_rows_know_their_groups_in_memory_and_in_a_sample(maps, limit):
    groups = np.where(maps.labels() == 0, 7, -1)
    grouped = FeatureSet(maps.path, dataclasses.replace(maps.content, groups=groups))

    (data,) = load_fit_data([grouped], views=None, several_views=False, hold_out=False, memory_limit=limit, seed=0)

    assert (data.training.stream is not None) == (limit == 400_000)
    units, y = data.training.units, data.training.y
    assert units is not None
    assert len(y) == len(units) > 2
    assert len(np.unique(units)) == (y != 0).sum() + (y == 0).any()


def test_a_memory_limit_below_the_list_of_images_is_refused(maps, tmp_path):
    with pytest.raises(HeadError) as caught:
        pf.fit_head(maps, "ridge", memory_limit=5000, out=tmp_path / "run", progress=False)

    assert one_error_line(caught.value).startswith("the list of 36 images alone takes nearly all of the memory limit")
    assert files_below(tmp_path) == []


def test_a_memory_limit_that_is_not_a_size_is_refused(features, tmp_path):
    with pytest.raises(OptionError, match="not a number of bytes"):
        pf.fit_head(features, "ridge", memory_limit="much", out=tmp_path / "run", progress=False)
