"""The cut below the unfrozen layers: both halves make the whole model, and every crossing tensor is found."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from permafrost.errors import CutError
from permafrost.finetuning.frontier import Frontier, crossing_tensors, cut_below
from permafrost.model.assembly import assemble, pixels_of
from permafrost.trunk.bases import load_base
from permafrost.trunk.cutting import Trunk, build_trunks
from samples import PX
from tuning import TINY


def whole(trunk: Trunk) -> keras.Model:
    """An exported model with a random head."""
    features = keras.Input(trunk.spec.shapes[0], name="features")
    pooled = features if len(features.shape) == 2 else keras.layers.Flatten(name="head_flatten")(features)
    initializer = keras.initializers.GlorotUniform(seed=1)
    layer = keras.layers.Dense(3, "softmax", name="head_probabilities", kernel_initializer=initializer)
    return assemble(trunk, keras.Model(features, layer(pooled), name="head"))


@pytest.fixture(scope="module")
def saved(tiny_base, tmp_path_factory):
    """A whole model of the tiny base in a file, and its trunk."""
    trunk = build_trunks(load_base(str(tiny_base)), pool="avg")[0]
    path = tmp_path_factory.mktemp("whole") / "model.keras"
    whole(trunk).save(path)
    return path, trunk


def cut(saved, layer: str) -> tuple[keras.Model, Frontier]:
    path, trunk = saved
    model = keras.models.load_model(path)
    return model, cut_below(model, pixels_of(model), TINY.index(layer), trunk.spec, TINY)


def through_both(frontier: Frontier) -> tuple[list[np.ndarray], np.ndarray]:
    """What crosses, and what comes out at the end."""
    features = frontier.trunk.model.predict_on_batch(PIXELS)
    features = features if isinstance(features, list) else [features]
    return features, frontier.tail.predict_on_batch(tuple(features) if len(features) > 1 else features[0])


PIXELS = np.random.default_rng(0).integers(0, 256, (4, PX, PX, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("layer", "crossing"),
    [("top", ("joined",)), ("joined", ("left", "right")), ("right", ("left", "stem_norm")), ("stem", ("scale",))],
)
def test_both_halves_in_a_row_equal_the_whole_model(saved, layer, crossing):
    model, frontier = cut(saved, layer)

    assert set(frontier.crossing) == set(crossing)
    assert np.array_equal(through_both(frontier)[1], model.predict_on_batch(PIXELS))


def test_the_spec_of_the_trunk_names_what_crosses(saved):
    _, frontier = cut(saved, "joined")

    spec = frontier.trunk.spec
    assert spec.cut == "+".join(frontier.crossing)
    assert spec.shapes == tuple((16, 16, 8) for _ in frontier.crossing)
    assert spec.pooling == "none"
    assert frontier.frozen
    _, other = cut(saved, "top")
    assert spec.digest != other.trunk.spec.digest


def test_if_one_tensor_crosses_the_features_are_those_that_extraction_caches_at_that_cut(saved, tiny_base):
    _, frontier = cut(saved, "top")

    (extracted,) = build_trunks(load_base(str(tiny_base)), ["joined"])

    assert frontier.trunk.spec.digest == extracted.spec.digest


def test_with_everything_unfrozen_the_trunk_has_no_weights(saved):
    _, frontier = cut(saved, "stem")

    assert not frontier.frozen


def test_training_the_tail_trains_the_model(saved):
    model, frontier = cut(saved, "top")

    frontier.tail.get_layer("top").kernel.assign(frontier.tail.get_layer("top").kernel * 2)

    assert frontier.tail.get_layer("top") is model.get_layer("top")
    assert not np.array_equal(
        model.predict_on_batch(PIXELS), keras.models.load_model(saved[0]).predict_on_batch(PIXELS)
    )


def test_a_model_can_be_cut_again_with_the_same_result(saved):
    path, trunk = saved
    model = keras.models.load_model(path)

    digests = [
        cut_below(model, pixels_of(model), TINY.index(layer), trunk.spec, TINY).trunk.spec.digest
        for layer in ("top", "joined", "top")
    ]

    assert digests[0] == digests[2] != digests[1]


def test_inception_v3_cut_at_172_has_the_three_tensors_of_its_branches(inception):
    names = [layer.name for layer in inception.model.layers]

    crossing = crossing_tensors(inception.model, names[:172], names[172:])

    assert {name for name, _, _ in crossing} == {"activation_55", "conv2d_51", "mixed5"}


def test_a_layer_that_is_used_twice_cannot_cross(tmp_path):
    pixels = keras.Input((8, 8, 3), name="pixels")
    shared = keras.layers.Conv2D(3, 1, name="shared")
    twice = shared(shared(pixels))
    model = keras.Model(pixels, keras.layers.Flatten(name="head")(keras.layers.Conv2D(2, 1, name="top")(twice)))

    with pytest.raises(CutError, match="layer shared, whose output crosses the cut, is used several times"):
        cut_below(model, pixels, 2, None, ["pixels", "shared", "top"])


def test_a_bfloat16_model_has_float32_features_at_the_cut(tiny_base, tmp_path):
    trunk = build_trunks(load_base(str(tiny_base)), pool="avg", precision="bfloat16")[0]
    whole(trunk).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")

    frontier = cut_below(model, pixels_of(model), TINY.index("top"), trunk.spec, TINY)

    features, found = through_both(frontier)
    assert features[0].dtype == np.float32
    assert np.allclose(found, model.predict_on_batch(PIXELS), atol=1e-2)
