"""Stages unfreeze in turn, lower layers at lower rates, and never end worse than they start."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from helpers import changed_layers, named_weights
from permafrost.errors import OptionError
from permafrost.finetuning.layers import find_stages, learning_rate_factors, set_trainable
from tuning import TINY, history_of, same_weights

pytest_plugins = ["upper", "tuning"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


def test_gradual_unfreezing_trains_each_cut_from_where_the_last_one_ended(tune, sloppy_run):
    tuned = tune("top,left")

    stages = tuned.about["stages"]
    assert [(stage["from"], stage["epochs"]) for stage in stages] == [("top", 2), ("left", 2)]
    assert stages[1]["before"] == pytest.approx(stages[0]["after"], abs=1e-5)
    assert tuned.about["unfrozen"]["from"] == "left"
    assert [row["epoch"] for row in history_of(tuned)] == [1, 2, 3, 4]
    assert changed_layers(named_weights(sloppy_run.model), named_weights(tuned.model)) == {
        *("left", "right", "top", "head_probabilities")
    }


def test_each_stage_is_lower_than_the_one_before():
    assert find_stages("top,left", TINY, TINY) == find_stages(["top", 4], TINY, TINY) == [7, 4]
    assert find_stages(None, TINY, TINY) == [6]
    for wrong in (["left", "top"], "top,top"):
        with pytest.raises(
            OptionError, match="each stage must unfreeze more than the one before; expected a layer below"
        ):
            find_stages(wrong, TINY, TINY)


def test_lower_layers_have_lower_rates_and_the_head_has_the_full_rate(sloppy_run):
    model = keras.models.load_model(sloppy_run.model_path)
    set_trainable(model, TINY[2:], frozen=TINY[:2], train_batchnorm=False)

    rates = dict(
        zip((v.path for v in model.trainable_variables), learning_rate_factors(model, TINY, 0.0625), strict=True)
    )

    assert rates["head_probabilities/kernel"] == 1
    assert [rates[f"{name}/kernel"] for name in ("stem", "left", "right", "top")] == [0.0625, 0.125, 0.25, 0.5]
    assert rates["stem/bias"] == rates["stem/kernel"]


@pytest.mark.parametrize("optimizer", [pytest.param("sgd", marks=pytest.mark.slow), "adam"])
def test_a_lower_rate_is_a_smaller_step(tune, sloppy_run, optimizer):
    options = {"epochs": 1, "batch_size": 18, "optimizer": optimizer, "momentum": 0.0, "learning_rate": 1e-3}
    start = named_weights(sloppy_run.model)

    whole, lower = tune("top", "whole", **options), tune("top", "lower", lowest_rate=0.25, **options)

    steps = [named_weights(run.model)["top/kernel"] - start["top/kernel"] for run in (whole, lower)]
    assert np.allclose(steps[1], 0.25 * steps[0], atol=1e-6)
    assert np.abs(steps[0]).max() > 0


def test_training_that_diverges_stops_and_keeps_the_start(tune, sloppy_run):
    tuned = tune(learning_rate=1e30, epochs=9)

    (stage,) = tuned.about["stages"]
    assert (stage["diverged"], stage["epochs"], stage["improved"]) == (True, 1, False)
    assert tuned.about["details"]["after"] == tuned.about["details"]["before"]
    assert changed_layers(named_weights(sloppy_run.model), named_weights(tuned.model)) == set()


def test_a_learning_rate_of_0_from_cached_features_changes_no_bit(tune, sloppy_run):
    same = tune("stem_norm", learning_rate=0.0, train_batchnorm=False)

    assert same.about["stages"][0]["plan"]["strategy"] == "cached"
    assert changed_layers(named_weights(sloppy_run.model), named_weights(same.model)) == set()


@pytest.mark.slow
def test_in_mixed_precision_weights_stay_float32_and_are_nearly_the_same(tune, monkeypatch):
    monkeypatch.setattr("permafrost.finetuning.request.require_gpu", lambda: None)

    whole, mixed = tune(name="whole"), tune(name="mixed", mixed_precision=True)

    assert same_weights(whole, mixed, 3e-2)
    assert not same_weights(whole, mixed)
    assert {str(layer.dtype_policy.name) for layer in mixed.model.layers} == {"float32"}
