"""The table of bases agrees with Keras, and names and options find their rows."""

from __future__ import annotations

import inspect
import sys

import keras
import numpy as np
import pytest

from permafrost.errors import BaseError
from permafrost.trunk.options import DEFAULT_BASE
from permafrost.trunk.preprocessing import preprocess
from permafrost.trunk.table import BASES, parse_base
from samples import PX

PIXELS = np.random.default_rng(0).integers(0, 256, (2, PX, PX, 3)).astype(np.float32)


OF_KERAS = [name for name, entry in BASES.items() if not entry.bundled]


def test_the_table_has_every_builder_of_keras_applications():
    builders = {name for name in dir(keras.applications) if inspect.isfunction(getattr(keras.applications, name))}

    assert {BASES[name].builder for name in OF_KERAS} == builders
    assert len(OF_KERAS) == len(builders) == 40
    assert DEFAULT_BASE in OF_KERAS


@pytest.fixture(scope="module")
def rules() -> dict[str, np.ndarray]:
    """`PIXELS` preprocessed by each rule."""
    pixels = keras.Input((PX, PX, 3))
    return {
        name: keras.Model(pixels, preprocess(pixels, name))(PIXELS).numpy() for name in ("none", "tf", "caffe", "torch")
    }


@pytest.mark.parametrize("name", OF_KERAS)
def test_the_preprocessing_rule_is_that_of_the_builders_module(name, rules):
    module = sys.modules[getattr(keras.applications, BASES[name].builder).__module__]

    expected = module.preprocess_input(PIXELS.copy())

    assert np.allclose(rules[BASES[name].preprocessing], expected, rtol=1e-5, atol=1e-5)


class StopBuildingError(Exception):
    """Ends a builder once its sizes are known."""


@pytest.mark.parametrize("name", OF_KERAS)
def test_default_and_minimum_sizes_are_those_of_the_builder(name, monkeypatch):
    sizes = []

    def obtain_input_shape(shape, default_size, min_size, **_):
        sizes.append((default_size, min_size))
        raise StopBuildingError

    monkeypatch.setattr(keras.src.applications.imagenet_utils, "obtain_input_shape", obtain_input_shape)
    builder = getattr(keras.applications, BASES[name].builder)
    if name.startswith("mobilenet_v3"):  # These have a check of their own, and name their size in prose only.
        with pytest.raises(ValueError, match="at least 32x32"):
            builder(include_top=False, weights=None, input_shape=(31, 31, 3))
        sizes.append((224, 32))
    else:
        with pytest.raises(StopBuildingError):
            builder(include_top=False, weights=None)

    assert sizes == [(BASES[name].default_size, BASES[name].minimum_size)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vgg16", "vgg16"),
        ("VGG16", "vgg16"),
        ("InceptionV3", "inception_v3"),
        ("inception-v3", "inception_v3"),
        ("EfficientNetV2B0", "efficientnet_v2_b0"),
        ("efficientnetv2_b0", "efficientnet_v2_b0"),
        ("NASNetMobile", "nasnet_mobile"),
        ("ConvNeXtTiny", "convnext_tiny"),
        ("resnet20-cifar10", "resnet20_cifar10"),
    ],
)
def test_a_name_may_be_spelled_as_in_keras(text, name):
    assert parse_base(text) == (name, {})


@pytest.mark.parametrize("name", OF_KERAS)
def test_every_builders_own_spelling_finds_its_row(name):
    assert parse_base(BASES[name].builder) == (name, {})


def test_builder_options_follow_a_colon():
    assert parse_base("mobilenet:alpha=0.25,depth_multiplier=1") == (
        "mobilenet",
        {"alpha": 0.25, "depth_multiplier": 1},
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("vgg_61", r"unknown base vgg_61; expected a name such as vgg19, vgg16\. Give one of these, or a \.keras file"),
        ("", r"unknown base ; expected a name such as"),
        ("vgg16:alpha=1", r"vgg16 has no option alpha=1; expected none"),
        ("mobilenet:weights=None", r"mobilenet has no option weights=None; expected alpha=\.\.\. or depth_multiplier"),
        ("mobilenet:alpha", r"mobilenet has no option alpha; expected alpha="),
        ("mobilenet:alpha=small", r"option alpha of mobilenet; expected a number, True or False, found small"),
        ("mobilenet:alpha=__import__('os')", r"option alpha of mobilenet; expected a number"),
    ],
)
def test_an_unknown_name_or_option_is_refused_with_the_known_ones(text, line):
    with pytest.raises(BaseError, match=line):
        parse_base(text)
