"""Preprocessing rules, built of layers, equal those of Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from permafrost.trunk.preprocessing import RULES, preprocess

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.float32)


def model_of(rule: str) -> keras.Model:
    pixels = keras.Input((5, 4, 3))
    return keras.Model(pixels, preprocess(pixels, rule))


@pytest.mark.parametrize("rule", ["tf", "caffe", "torch"])
def test_a_rule_equals_that_of_keras_of_the_same_name(rule):
    expected = keras.applications.imagenet_utils.preprocess_input(PIXELS.copy(), mode=rule)

    assert np.allclose(model_of(rule)(PIXELS), expected, rtol=1e-5, atol=1e-5)


def test_the_rule_none_adds_no_layer():
    pixels = keras.Input((5, 4, 3))

    assert preprocess(pixels, "none") is pixels


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"none"}))
def test_a_rule_computes_in_float32_whatever_precision_is_set(rule):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = model_of(rule)
    finally:
        keras.config.set_dtype_policy("float32")

    assert model.outputs[0].dtype == "float32"
    assert np.array_equal(model(PIXELS), model_of(rule)(PIXELS))


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"none"}))
def test_a_rule_is_saved_and_opened_in_safe_mode(rule, tmp_path):
    model = model_of(rule)
    model.save(tmp_path / "model.keras")

    opened = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)

    assert np.array_equal(opened(PIXELS), model(PIXELS))
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in opened.layers)
