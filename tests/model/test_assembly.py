"""An exported model: its layers, its resizing and preprocessing, and its opening with plain Keras."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.applications.imagenet_utils import preprocess_input

import permafrost as pf
from helpers import constant_model, export_for_ever, kill_repeatedly, leftovers, load_stored_trunk
from permafrost.errors import RunError, WriteError
from permafrost.images.resizing import resize
from permafrost.model import assembly
from permafrost.model.assembly import GRAPH_RECORDS, RESIZING_LAYER, assemble, body_of, export_model, shared_layers
from permafrost.model.parity import TOLERANCE
from permafrost.trunk.bases import load_base
from permafrost.trunk.cutting import Trunk, build_trunks
from samples import PX, texture, tiny_model

pytest_plugins = ["upper"]

IMAGES = [texture("dots", 1), texture("checks", 2, (70, 33)), texture("stripes", 3, (PX, PX))]
"""Images of three sizes, the last one of the trunk's size."""


def make_head(shape: tuple[int, ...] = (16,), *, seed: int = 3) -> keras.Model:
    features = keras.Input(shape, name="features")
    initializer = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    outputs = keras.layers.Dense(3, "softmax", kernel_initializer=initializer, name="head_probabilities")(features)
    return keras.Model(features, outputs, name="head")


@pytest.fixture(scope="module")
def trunk(features) -> Trunk:
    """The trunk of `features`."""
    return load_stored_trunk(features.store)


@pytest.fixture(scope="module")
def alone(run, exported, tmp_path_factory) -> dict:
    """The findings of a process that opens a copy of the run's model with Keras alone."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(run.model_path, folder / "anything.keras")
    np.savez(folder / "images.npz", *IMAGES)
    program = """
        import json, sys
        import keras, numpy as np
        model = keras.models.load_model("anything.keras", safe_mode=True)
        images = [np.load("images.npz")[f"arr_{i}"] for i in range(3)]
        def leaves(model):
            for layer in model.layers:
                yield layer
                yield from leaves(layer) if hasattr(layer, "layers") else ()
        found = {
            "permafrost": [name for name in sys.modules if name.startswith("permafrost")],
            "uint8": [np.asarray(model(p[None]))[0].tolist() for p in images],
            "float32": [np.asarray(model(p[None].astype("float32")))[0].tolist() for p in images],
            "predict": model.predict(np.stack([images[0]] * 3), verbose=0).tolist(),
            "layers": [[type(layer).__module__, type(layer).__name__] for layer in leaves(model)],
            "input": list(model.inputs[0].shape),
        }
        print(json.dumps(found))
    """
    # Isolated: neither the tests' folder nor the working folder is on the path.
    command = [sys.executable, "-I", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=120)
    return json.loads(done.stdout)


def test_heads_that_shared_a_trunk_are_freed(features):
    trunk, head = load_stored_trunk(features.store), make_head()
    kernel = weakref.ref(head.layers[-1].kernel)
    with shared_layers(trunk.model):
        joined = assemble(trunk, head)
        found = joined.predict(np.stack([texture("dots", 1, (PX, PX))]), verbose=0)

    del joined, head
    keras.backend.clear_session()
    gc.collect()

    assert kernel() is None, "is a head still referred to? see `assembly.shared_layers`"
    with shared_layers(trunk.model):
        again = assemble(trunk, make_head()).predict(np.stack([texture("dots", 1, (PX, PX))]), verbose=0)
    np.testing.assert_array_equal(again, found)


def test_keras_records_graphs_where_shared_layers_expects_them():
    """If this fails, Keras has moved its records; then `shared_layers` does nothing, and heads stay in memory."""
    model = tiny_model()
    records = [getattr(layer, name) for layer in model.operations for name in GRAPH_RECORDS]
    before = [len(each) for each in records]

    with shared_layers(model):
        model.call(keras.Input((PX, PX, 3)))
        assert sum(len(each) for each in records) > sum(before)

    assert [len(each) for each in records] == before


def test_sharing_layers_works_if_keras_has_its_records_elsewhere(monkeypatch):
    model, pixels = tiny_model(), np.zeros((1, PX, PX, 3), np.float32)
    monkeypatch.setattr(assembly, "GRAPH_RECORDS", ("_inbound_nodes", "_renamed"))

    with shared_layers(model):
        joined = keras.Model(images := keras.Input((PX, PX, 3)), model.call(images))

    np.testing.assert_array_equal(joined(pixels), model(pixels))


def test_a_model_opens_in_safe_mode_with_plain_keras_and_without_this_package(alone):
    assert alone["permafrost"] == []
    assert alone["input"] == [None, None, None, 3]


def test_a_model_takes_images_of_any_size_as_uint8_or_float32(alone, exported):
    expected = [np.asarray(exported(pixels[None].astype(np.float32)))[0] for pixels in IMAGES]

    assert np.allclose(alone["float32"], expected, atol=1e-6)
    assert np.allclose(alone["uint8"], expected, atol=1e-6)
    assert np.allclose(alone["predict"], [expected[0]] * 3, atol=1e-6)


def test_all_layers_are_keras_own_and_none_is_a_lambda(alone):
    assert all(module.startswith("keras.") for module, _ in alone["layers"])
    assert "Lambda" not in {name for _, name in alone["layers"]}
    assert "Resizing" in {name for _, name in alone["layers"]}


def test_resizing_leaves_an_image_of_the_trunks_size_unchanged(exported):
    resizing = exported.get_layer(RESIZING_LAYER)
    pixels = np.random.default_rng(0).uniform(0, 255, (1, PX, PX, 3)).astype(np.float32)

    assert np.array_equal(np.asarray(resizing(pixels)), pixels)


def test_the_model_and_its_parts_agree_on_images_of_the_trunks_size(exported, run, features):
    pixels = np.stack([resize(image, (PX, PX)) for image in IMAGES])
    head = keras.Model(exported.get_layer("top_pooling").output, exported.outputs[0])

    expected = head(load_stored_trunk(features.store).model(pixels.astype(np.float32)))

    assert np.allclose(exported(pixels.astype(np.float32)), expected, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    kind=st.sampled_from(["noise", "edges", "ramp"]),
    seed=st.integers(0, 100),
)
def test_the_models_resizing_differs_from_extraction_by_at_most_one_level(exported, size, kind, seed):
    generator = np.random.default_rng(seed)
    pixels = {
        "noise": generator.integers(0, 256, (*size, 3)),
        "edges": generator.integers(0, 2, (*size, 3)) * 255,
        "ramp": np.broadcast_to(np.linspace(0, 255, size[1])[None, :, None], (*size, 3)),
    }[kind].astype(np.uint8)

    resized = np.round(np.asarray(exported.get_layer(RESIZING_LAYER)(pixels[None].astype(np.float32))))[0]

    assert np.abs(resized - resize(pixels, (PX, PX))).max() <= 1


@pytest.mark.parametrize("rule", ["tf", "caffe", "torch"])
def test_the_preprocessing_is_that_of_keras_applications(rule, tiny_base):
    base = load_base(str(tiny_base), preprocessing=rule)
    (trunk,) = build_trunks(base, pool="avg")
    head = make_head()
    pixels = np.stack([resize(image, (PX, PX)) for image in IMAGES]).astype(np.float32)

    found = assemble(trunk, head)(pixels)

    prepared = preprocess_input(pixels.copy(), data_format="channels_last", mode=rule)
    expected = head(np.asarray(base.model(prepared)).mean(axis=(1, 2)))
    assert np.allclose(found, expected, atol=1e-5)


def test_every_layer_of_the_base_is_a_layer_of_the_model_by_its_name(exported):
    names = {layer.name for layer in exported.layers}

    assert names >= {"stem", "stem_norm", "left", "right", "joined", "top"}


def test_an_exported_model_can_be_a_base_with_or_without_its_classifier(run, split_photos, light, tmp_path):
    base = str(run.model_path)

    for cut, pool in ((None, "none"), ("top", "avg")):
        features = pf.extract(split_photos, base=base, cut=cut, pool=pool, out=tmp_path / f"{pool}.h5", progress=False)
        again = pf.fit_head(features, "logistic", regularization=1.0, out=tmp_path / pool, progress=False)

        assert again.about["parity"]["resized_max_difference"] <= TOLERANCE
        assert again.model.outputs[0].shape == (None, 3)


def test_the_body_is_the_model_without_its_resizing(exported):
    pixels = np.stack([resize(image, (PX, PX)) for image in IMAGES]).astype(np.float32)

    body = body_of(exported)

    assert np.allclose(body(pixels), exported(pixels), atol=1e-7)
    assert body.get_layer("stem") is exported.get_layer("stem")


def test_a_foreign_model_has_no_body():
    with pytest.raises(RunError, match="was not exported by permafrost; expected a model that resizes its images"):
        body_of(tiny_model())


def weights_of(path: Path) -> set[float]:
    """Open a model and return its distinct weights."""
    return {float(value) for array in keras.models.load_model(path).get_weights() for value in np.unique(array)}


def test_a_failed_export_leaves_the_old_model_and_nothing_else(tmp_path):
    path = tmp_path / "model.keras"
    export_model(constant_model(1.0), path)

    class Failing:
        def save(self, place: Path) -> None:
            Path(place).write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match=r"cannot write .*model\.keras: No space left on device\. Free some space"):
        export_model(Failing(), path)  # type: ignore[arg-type]

    assert weights_of(path) == {1.0}
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_while_a_model_is_exported_leaves_the_old_model_or_the_new_one(tmp_path, kills):
    path = tmp_path / "model.keras"
    export_model(constant_model(3.0), path)
    found, killed_within = set(), 0

    for _ in kill_repeatedly(export_for_ever, path, lambda: path.stat().st_mtime_ns, kills=kills, within=0.1):
        (weight,) = weights_of(path)
        found.add(weight)
        killed_within += bool(leftovers(tmp_path))
        for name in leftovers(tmp_path):
            (tmp_path / name).unlink()

    assert found <= {1.0, 2.0}
    assert killed_within, "no kill came while a file was being written: the test does not test"
