"""The base inside a run's model."""

from __future__ import annotations

import json

import keras

from helpers import same_weights
from permafrost.trunk.preprocessing import preprocess
from permafrost.trunk.run_base import MODEL_FILE, RUN_FILE, load_run_base


def test_the_base_of_a_run_in_bfloat16_computes_in_float32_in_its_nested_models_too(tmp_path):
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16")], name="inner")
    images = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(2, 1, name="last", dtype="mixed_bfloat16")(inner(preprocess(images, "tf")))
    model = keras.Model(images, features)
    model.save(tmp_path / MODEL_FILE)
    trunk = {"base": "tiny", "cut": "last", "preprocessing": "tf", "image_size": [8, 8]}
    (tmp_path / RUN_FILE).write_text(json.dumps({"trunk": trunk}))

    base = load_run_base(tmp_path)

    convolutions = [base.model.get_layer("inner").layers[-1], base.model.get_layer("last")]
    assert [layer.dtype_policy.name for layer in convolutions] == ["float32", "float32"]
    assert same_weights(base.model, model)
