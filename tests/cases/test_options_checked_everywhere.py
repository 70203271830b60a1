"""An option is checked wherever it comes in: on the command line, as a Python value, or within an estimator."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import permafrost as pf
from helpers import files_below, one_error_line
from permafrost import cli
from permafrost.errors import OptionError, PermafrostError
from permafrost.options import check, option

pytest_plugins = ["upper"]
pytestmark = pytest.mark.usefixtures("light")


def refused_line(call, *arguments: Any, **options: Any) -> str:
    """Return the line with which a call is refused."""
    with pytest.raises(PermafrostError) as caught:
        call(*arguments, **options)
    return one_error_line(caught.value)


def fit(features, head, tmp_path, **options):
    return pf.fit_head(features, head, progress=False, **{"out": tmp_path / "run", **options})


def test_too_many_neighbours_are_the_same_line_for_the_option_and_for_an_estimator(features, tmp_path, capsys):
    line = "more neighbours than training images; expected at most 18, found 100"

    assert refused_line(fit, features, "knn", tmp_path, neighbours=100) == line
    assert refused_line(fit, features, KNeighborsClassifier(100), tmp_path) == line
    within = make_pipeline(StandardScaler(), PCA(2), KNeighborsClassifier(np.int64(100)))
    assert refused_line(fit, features, within, tmp_path) == line
    assert cli.run(["fit-head", str(features.path), "--head", "knn", "--neighbours", "100"]) == 2
    assert line in capsys.readouterr().err
    assert files_below(tmp_path) == []


def test_as_many_neighbours_as_training_images_are_fitted(features, tmp_path):
    run = fit(features, KNeighborsClassifier(np.int64(18)), tmp_path)

    assert run.metrics["train"]["n"] == 18


@pytest.mark.parametrize(
    ("estimator", "line"),
    [
        (make_pipeline(PCA(100), LogisticRegression()), "n_components=100 must be between 0 and min(n_samples"),
        (LogisticRegression(C=-1), "The 'C' parameter of LogisticRegression must be"),
        (LogisticRegression(C=math.nan), "Got nan instead"),
        (LogisticRegression(C="x"), "Got 'x' instead"),
        (LogisticRegression(solver="nope"), "The 'solver' parameter"),
        (KNeighborsClassifier(0), "The 'n_neighbors' parameter"),
        (MLPClassifier((0,)), "hidden_layer_sizes must be > 0"),
        (LinearDiscriminantAnalysis(n_components=5), "n_components cannot be larger than"),
        (RidgeClassifier(alpha=-1), "The 'alpha' parameter"),
        (LinearSVC(C=0), "The 'C' parameter"),
        (Pipeline([]), "a pipeline without steps; expected one that ends in a classifier"),
        (Pipeline([("a", None), ("b", "passthrough")]), "a pipeline without steps"),
        (Pipeline([("a", StandardScaler())]), "StandardScaler cannot be converted to Keras layers"),
        (Pipeline([("a", "x"), ("b", LogisticRegression())]), "str cannot be converted to Keras layers"),
        (LogisticRegression, "LogisticRegression is a class; expected an estimator. Give LogisticRegression()"),
    ],
    ids=str,
)
def test_an_estimator_that_cannot_be_fitted_is_one_line_with_the_reason(features, tmp_path, estimator, line):
    assert line in refused_line(fit, features, estimator, tmp_path)
    assert files_below(tmp_path) == []


def test_class_weights_by_name_are_refused_with_the_numbers_of_the_classes(features, tmp_path):
    line = refused_line(fit, features, LogisticRegression(class_weight={"checks": 2, "dots": 1}), tmp_path)

    assert line.endswith("Give classes by their numbers: 0 is checks, 1 is dots, 2 is stripes")
    assert fit(features, LogisticRegression(class_weight={0: 2, 1: 1, 2: 1}), tmp_path).metrics["train"]["n"] == 18


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("logistic", {"regularization": "0.1"}, "regularization has a wrong value; expected a number, found '0.1'"),
    ("logistic", {"regularization": math.nan}, "regularization has a wrong value; expected a number, found nan"),
    ("logistic", {"regularization": math.inf}, "regularization has a wrong value; expected a number, found inf"),
    ("logistic", {"regularization": True}, "regularization has a wrong value; expected a number, found True"),
    ("knn", {"neighbours": 2.5}, "neighbours has a wrong value; expected a whole number, found 2.5"),
    ("ridge", {"pca": [2]}, "pca has a wrong value; expected a number, found [2]"),
    ("ridge", {"pca": 100}, "no such number of principal components"),
    ("mlp", {"hidden": [2.5]}, "hidden has a wrong value; expected whole numbers, found (2.5,)"),
    ("mlp", {"hidden": {"a": 1}}, "hidden has a wrong value; expected whole numbers, found ('a',)"),
    ("conv", {"filter_dropout": [None]}, "filter_dropout has a wrong value; expected numbers, found (None,)"),
    ("dense", {"epochs": "3"}, "epochs has a wrong value; expected a whole number, found '3'"),
    ("dense", {"epochs": None}, "epochs has a wrong value; expected a whole number, found None"),
    ("dense", {"batch_norm": "yes"}, "batch_norm has a wrong value; expected True or False, found 'yes'"),
    ("dense", {"class_weight": {0: 1}}, "class_weight has a wrong value; expected text, found {0: 1}"),
    ("dense", {"seed": 2**40}, "seed is out of range; expected at least 0, at most 4,294,967,295, found 1099511627776"),
    ("auto", {"candidates": 7}, "candidates has a wrong value; expected names, found (7,)"),
    ("auto", {"candidates": [LogisticRegression()]}, "candidates has a wrong value; expected names, found"),
    ("ridge", {"shots": [1, "2"]}, "shots has a wrong value; expected whole numbers, found (1, '2')"),
    ("ridge", {"shots": math.nan}, "shots has a wrong value; expected whole numbers, found (nan,)"),
    ("ridge", {"shots": 1, "draws": 2.5}, "draws has a wrong value; expected a whole number, found 2.5"),
    ("ridge", {"views": "1"}, "views has a wrong value; expected a whole number, found '1'"),
    (
        "ridge",
        {"memory_limit": b"2GB"},
        "memory_limit has a wrong value; expected a whole number or text, found b'2GB'",
    ),
    ("ridge", {"scaling": None}, "scaling has a wrong value; expected text, found None"),
    ("ridge", {"out": b"run"}, "not the path of a run's folder; found b'run'"),
    ("ridge", {"out": "a\0b"}, "not the path of a run's folder; found 'a\\x00b'"),
]


@pytest.mark.parametrize(("head", "options", "line"), WRONG, ids=str)
def test_a_value_of_another_kind_is_refused_in_one_line(features, tmp_path, head, options, line):
    found = refused_line(fit, features, head, tmp_path, **options)

    assert found == line or found.startswith(line)
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("place", [None, 7, b"set.h5", "a\0b", [7], {"a": 1}], ids=repr)
def test_what_is_not_a_path_is_refused_in_one_line(run, place, split_photos, tmp_path):
    assert "feature set" in refused_line(pf.fit_head, place)
    assert refused_line(pf.finetune, place)
    assert "a dataset" in refused_line(pf.extract, place, out=tmp_path / "set.h5")
    assert "a dataset" in refused_line(pf.evaluate, run, place)
    assert refused_line(pf.evaluate, place, split_photos)


@pytest.mark.parametrize("top", [2.5, "3", math.nan, None, True], ids=repr)
def test_a_number_of_classes_to_predict_is_a_whole_number(run, split_photos, top):
    assert "top has a wrong value; expected a whole number" in refused_line(pf.predict, run, [split_photos], top=top)


@pytest.mark.parametrize("layer", [1.5, True, b"top", math.nan], ids=repr)
def test_a_layer_is_a_name_or_an_index(run, split_photos, tiny_base, tmp_path, layer):
    assert "not a layer; expected a name or an index" in refused_line(
        pf.extract, split_photos, base=str(tiny_base), cut=[layer], out=tmp_path / "set.h5", progress=False
    )


@pytest.mark.parametrize("images", [7, None, [7], [None]], ids=repr)
def test_what_is_not_an_image_is_refused_in_one_line(run, images):
    assert "not an image; expected paths, or arrays (h, w, 3)" in refused_line(pf.predict, run, images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One option of each kind."""

    count: int = option(1, "A number.", minimum=1)
    size: int | None = option(None, "A number or none.")
    rate: float = option(0.5, "A number.")
    on: bool = option(False, "A switch.")
    each: tuple[float, ...] | None = option(None, "Numbers.")

    def __post_init__(self) -> None:
        check(self)


def test_numbers_of_numpy_and_whole_floats_become_plain_ones():
    record = Record(count=np.int64(3), size=2.0, rate=np.float32(0.25), on=np.True_, each=[np.float64(1), 2])

    assert dataclasses.asdict(record) == {"count": 3, "size": 2, "rate": 0.25, "on": True, "each": (1.0, 2)}
    assert [type(value) for value in (record.count, record.size, record.rate, record.on)] == [int, int, float, bool]


@pytest.mark.parametrize(
    "options", [{"count": None}, {"size": 2.5}, {"rate": "x"}, {"on": 1}, {"each": 1.0}, {"each": ["1"]}], ids=str
)
def test_a_value_that_is_none_of_its_annotation_is_refused(options):
    with pytest.raises(OptionError, match="has a wrong value; expected "):
        Record(**options)
