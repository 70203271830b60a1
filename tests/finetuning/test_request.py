"""Requests that cannot work are refused before anything is computed."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import permafrost as pf
from helpers import leftovers, one_error_line
from permafrost.errors import HeadError, OptionError, RunError
from tuning import QUICK

pytest_plugins = ["upper", "tuning"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


@pytest.mark.parametrize("limit", ["much", "-1", "20XB", ""])
def test_an_invalid_cache_limit_is_refused(tune, limit):
    with pytest.raises(OptionError, match="not a number of bytes; expected a number such as 20GB or 20GiB, found"):
        tune(cache_limit=limit)


@pytest.mark.parametrize("rate", [0.0, 1.5, -1.0])
def test_a_lowest_rate_that_is_not_a_fraction_is_refused(tune, rate):
    with pytest.raises(OptionError, match="lowest_rate is out of range; expected more than 0, at most 1, found"):
        tune(lowest_rate=rate)


def test_an_untrained_head_is_refused_unless_untrained_head_is_given(features, tmp_path):
    run = pf.fit_head(features, "dense", epochs=1, learning_rate=0.0, out=tmp_path / "random", progress=False)

    with pytest.raises(HeadError) as caught:
        pf.finetune(run, "top", out=tmp_path / "tuned", progress=False)

    line = one_error_line(caught.value)
    assert line.startswith(f"the head of {run.folder} is not trained: its large gradients would destroy the base; ")
    assert line.endswith("Fit the head better, or give --untrained-head")
    assert not (tmp_path / "tuned").exists()
    options = {"untrained_head": True, "epochs": 1, "progress": False}
    assert pf.finetune(run, "top", out=tmp_path / "tuned", **options).folder.exists()


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("knn", "knn"),
        (KNeighborsClassifier(3), "kneighborsclassifier"),
        (make_pipeline(StandardScaler(), KNeighborsClassifier(3)), "pipeline"),
    ],
    ids=["knn", "estimator", "pipeline"],
)
def test_a_head_without_a_gradient_is_refused(features, tmp_path, head, name):
    run = pf.fit_head(features, head, out=tmp_path / "run", progress=False)

    with pytest.raises(HeadError, match=rf"{name} has no useful gradient.*Fit another head"):
        pf.finetune(run, "top", out=tmp_path / "tuned", progress=False)


def test_mixed_precision_needs_a_gpu(tune):
    if keras.distribution.list_devices("gpu"):
        pytest.skip("there is a GPU")
    with pytest.raises(OptionError, match="mixed precision is slower without a GPU; expected a GPU, found none"):
        tune(mixed_precision=True)


@pytest.mark.slow
def test_an_image_that_has_changed_is_refused_before_training(own_photos, tiny_base, tmp_path, split_photos):
    data = Path(shutil.copytree(split_photos, tmp_path / "data"))
    features = pf.extract(data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "set.h5", progress=False)
    run = pf.fit_head(features, "logistic", out=tmp_path / "run", progress=False)
    victim = Path(features.paths("validation")[1])
    shutil.copy(features.paths("test")[0], victim)

    with pytest.raises(RunError) as caught:
        pf.finetune(run, "top", out=tmp_path / "tuned", progress=False, **QUICK)

    assert f"cannot be trained on: {victim} has changed since its features were cached" in one_error_line(caught.value)
    assert leftovers(tmp_path) == []
