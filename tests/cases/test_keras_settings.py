"""What a program has set in Keras for its own models changes nothing that is cached or exported, and stays as it was.

Public bug reports: keras-team/keras#11989, tensorflow/hub#854.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.src.backend.common import global_state

import permafrost as pf
from permafrost.errors import BaseError
from permafrost.heads.options import HEADS
from permafrost.keras_state import keras_defaults
from permafrost.trunk.graph import architecture_digest, weights_digest
from samples import PX, randomize, tiny_model

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]

SETTINGS: dict[str, dict[str, Any]] = {
    "a notebook in mixed precision": {"dtype_policy": "mixed_float16"},
    "the policy bfloat16": {"dtype_policy": "bfloat16"},
    "half precision by default": {"floatx": "float16"},
    "double precision by default": {"floatx": "float64"},
    "all but the precision": {"image_data_format": "channels_first", "epsilon": 0.1, "max_epochs": 1},
}
QUICK: dict[str, dict[str, Any]] = {
    "dense": {"hidden": 8, "epochs": 3, "dropout": 0.2},
    "conv": {"filters": 4, "hidden": 4, "epochs": 2},
    "linear": {"epochs": 3},
}


def state() -> dict[str, Any]:
    """What the program has set; the policy is None where it follows the default float type."""
    names = ("floatx", "epsilon", "image_data_format", "max_epochs", "max_steps_per_epoch")
    policy = global_state.get_global_attribute("dtype_policy")
    return {name: getattr(keras.config, name)() for name in names} | {"policy": policy and policy.name}


@contextlib.contextmanager
def program(**settings: Any) -> Iterator[None]:
    """A program that has these settings; other tests have Keras' own."""
    before = {name: getattr(keras.config, name)() for name in settings if name != "dtype_policy"}
    policy = global_state.get_global_attribute("dtype_policy")
    # Unset, the policy follows the default float type.
    global_state.set_global_attribute("dtype_policy", None)
    try:
        for name, value in settings.items():
            getattr(keras.config, f"set_{name}")(value)
        yield
    finally:
        for name, value in before.items():
            getattr(keras.config, f"set_{name}")(value)
        global_state.set_global_attribute("dtype_policy", policy)


def digests(model: keras.Model) -> tuple[str, str]:
    return architecture_digest(model), weights_digest(model)


def whole_job(folder: Path, data: Path, base: Path) -> dict[str, Any]:
    """Keys, features, models and metrics of every step, for comparison bit for bit."""
    features = pf.extract(data, base=str(base), pool="avg", out=folder / "set.h5", progress=False)
    run = pf.fit_head(features, "logistic", regularization=0.3, out=folder / "run", progress=False)
    quick = {"epochs": 2, "learning_rate": 2e-3, "batch_size": 9}
    tuned = pf.finetune(run, "joined", out=folder / "tuned", progress=False, **quick)
    images = sorted(map(str, (data / "test").rglob("*.*g")))
    extractor = pf.FeatureExtractor(base=str(base), pool="avg", store=folder / "other")
    return {
        "key": features.spec.digest,
        "features": features.arrays()[0].tobytes(),
        "transformed": extractor.fit_transform(images).tobytes(),
        "models": [digests(made.model) for made in (run, tuned)],
        "metrics": [made.metrics for made in (run, tuned)],
        "evaluated": pf.evaluate(tuned, data),
        "predicted": pf.predict(tuned, images),
    }


@pytest.fixture(scope="module")
def whole(split_photos, tiny_base, tmp_path_factory) -> dict[str, Any]:
    """What the whole job gives with Keras' own settings."""
    return whole_job(tmp_path_factory.mktemp("whole"), split_photos, tiny_base)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_of_the_program_changes_a_key_a_feature_a_model_or_a_metric(
    settings, whole, split_photos, tiny_base, tmp_path
):
    with program(**settings):
        before = state()

        found = whole_job(tmp_path, split_photos, tiny_base)

        assert state() == before
    paths = {"model": str(tmp_path / "tuned")}
    assert found == whole | {"evaluated": whole["evaluated"] | paths}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_fitted_and_converted_alike_in_mixed_precision(head, features, maps, tmp_path):
    data = maps if head == "conv" else features
    plain = pf.fit_head(data, head, out=tmp_path / "plain", progress=False, **QUICK.get(head, {}))

    with program(dtype_policy="mixed_float16", floatx="float16", epsilon=0.1, image_data_format="channels_first"):
        mixed = pf.fit_head(data, head, out=tmp_path / "mixed", progress=False, **QUICK.get(head, {}))
        loaded = digests(mixed.model)

    assert loaded == digests(plain.model)
    assert mixed.metrics == plain.metrics


def test_a_base_from_the_table_is_built_in_the_channel_order_and_precision_of_the_key(photos, tmp_path):
    def take(name: str) -> Any:
        options = {"base": "mobilenet:alpha=0.25", "weights": "none", "image_size": PX, "engine": "keras"}
        return pf.extract(photos, out=tmp_path / name / "set.h5", progress=False, **options)

    plain = take("plain")
    with program(dtype_policy="mixed_float16", image_data_format="channels_first"):
        found = take("set")

    assert found.spec == plain.spec
    assert np.array_equal(found.arrays()[0], plain.arrays()[0])


@pytest.mark.parametrize("policy", ["mixed_float16", "float16", "float64", "mixed_bfloat16"])
def test_a_base_saved_in_another_precision_computes_in_that_of_the_key(policy, photos, tiny_base, tmp_path):
    with program(dtype_policy=policy):
        tiny_model().save(tmp_path / "tiny.keras")
    options = {"pool": "avg", "engine": "keras", "progress": False}

    plain = pf.extract(photos, base=str(tiny_base), out=tmp_path / "plain" / "set.h5", **options)
    found = pf.extract(photos, base=str(tmp_path / "tiny.keras"), out=tmp_path / "set.h5", **options)

    assert found.spec.architecture == plain.spec.architecture
    assert found.spec.precision == "float32"
    assert {layer.dtype_policy.name for layer in found.trunk.model.layers} == {"float32"}
    if policy != "float16":  # Which has rounded the weights themselves.
        assert found.spec == plain.spec
        assert np.array_equal(found.arrays()[0], plain.arrays()[0])


def test_a_quantized_base_is_refused_by_name(photos, tmp_path):
    pixels = keras.Input((PX, PX, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(8, name="small")(pooled))
    randomize(model)
    model.quantize("int8")
    model.save(tmp_path / "int8.keras")

    with pytest.raises(BaseError, match=r"layer small of .* is quantized; expected weights in floating point"):
        pf.extract(photos, base=str(tmp_path / "int8.keras"), out=tmp_path / "set.h5", progress=False)


def test_the_settings_come_back_when_a_request_is_refused(photos, tmp_path):
    with program(dtype_policy="mixed_float16", floatx="float16"):
        before = state()
        with pytest.raises(BaseError):
            pf.extract(photos, base="no such base", out=tmp_path / "set.h5")
        assert state() == before


def test_the_settings_come_back_once_when_the_last_of_several_overlapping_threads_is_done():
    with program(floatx="float16", epsilon=1e-3, dtype_policy="mixed_float16"):
        before = state()
        entered, left = threading.Event(), threading.Event()
        inside: list[dict[str, Any]] = []

        def other() -> None:
            with keras_defaults():
                entered.set()
                left.wait(10)
                inside.append(state())

        thread = threading.Thread(target=other)
        with keras_defaults():
            thread.start()
            entered.wait(10)
            assert state()["policy"] == "float32"
        left.set()
        thread.join()

        assert inside[0]["floatx"] == inside[0]["policy"] == "float32"
        assert state() == before


def test_a_setting_that_the_program_changes_meanwhile_in_another_thread_stays():
    with program(floatx="float16"):
        with keras_defaults():
            thread = threading.Thread(target=lambda: keras.config.set_floatx("float64"))
            thread.start()
            thread.join()

        assert keras.config.floatx() == "float64"


def test_a_policy_that_is_unset_still_follows_the_default_float_type_afterwards():
    with program(floatx="float16"):
        with keras_defaults():
            keras.layers.Dense(1)
        keras.config.set_floatx("float64")

        assert keras.config.dtype_policy().name == "float64"
