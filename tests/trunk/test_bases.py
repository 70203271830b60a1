"""Bases are built from the table or opened from files."""

from __future__ import annotations

import dataclasses

import keras
import pytest

from helpers import same_weights
from permafrost.errors import BaseError, OptionError, WeightsError
from permafrost.trunk.bases import canonical_names, load_base, load_model_file
from samples import PX, tiny_model, write_legacy
from small_base import PIXELS, SMALL

pytest_plugins = ["small_base"]


def test_a_base_knows_its_name_size_source_and_preprocessing(small):
    assert (small.name, small.image_size, small.weights_source, small.preprocessing) == (
        SMALL,
        (PX, PX),
        "none",
        "tf",
    )


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        (
            {"image_size": (31, 64)},
            BaseError,
            r"image size too small for mobilenet; expected at least 32 px, found 31x64",
        ),
        ({"image_size": (0, 0)}, OptionError, r"image size too small; expected 1 px or more, found 0x0"),
        (
            {"preprocessing": "imagenet"},
            OptionError,
            r"unknown preprocessing imagenet; expected none, tf, caffe, torch",
        ),
        ({"weights": "gone.h5"}, WeightsError, r"no weights file gone\.h5; expected imagenet, none, or a file"),
    ],
)
def test_wrong_options_are_refused_before_the_base_is_built(options, error, line, monkeypatch):
    monkeypatch.delattr(keras.applications, "MobileNet")
    monkeypatch.setattr(keras.applications, "MobileNet", lambda **_: pytest.fail("it was built"), raising=False)

    with pytest.raises(error, match=line):
        load_base("mobilenet", **{"weights": "none", **options})


def test_an_option_that_the_builder_refuses_is_an_error_of_one_line():
    with pytest.raises(BaseError, match=r"^mobilenet cannot be built: .*"):
        load_base("mobilenet:depth_multiplier=-1", weights="none", image_size=(PX, PX))


def test_a_base_without_its_own_preprocessing_needs_a_rule():
    with pytest.raises(
        BaseError,
        match=r"without its own preprocessing needs a rule\. .*leave include_preprocessing out",
    ):
        load_base("mobilenet_v3_small:include_preprocessing=False", weights="none", image_size=(PX, PX))


def test_layers_have_the_names_of_a_new_process(inception):
    names = [layer.name for layer in inception.model.layers]

    assert len(set(names)) == len(names)
    assert {"conv2d", "conv2d_93", "batch_normalization_93", "activation_93", "mixed0", "mixed10"} <= set(names)
    assert "conv2d_94" not in names
    assert names[170:173] == ["activation_55", "conv2d_51", "conv2d_56"]  # Not in the order of their numbers.


def test_explicit_layer_names_stay():
    pixels = keras.Input((8, 8, 3), name="pixels")
    model = keras.Model(pixels, keras.layers.Conv2D(1, 1)(keras.layers.Conv2D(1, 1, name="mine")(pixels)))

    canonical_names(model)

    assert [layer.name for layer in model.layers] == ["pixels", "mine", "conv2d"]
    assert model.get_layer("conv2d") is model.layers[2]


def test_a_model_file_gives_its_own_weights_size_and_name(tiny_base):
    base = load_base(str(tiny_base))

    assert (base.name, base.weights_source, base.image_size) == ("tiny", "tiny.keras", (PX, PX))
    assert same_weights(base.model, tiny_model())


def test_a_model_that_scales_its_input_has_no_preprocessing(tiny_base):
    assert load_base(str(tiny_base)).preprocessing == "none"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("vgg16", "caffe"),
        ("resnet50v2", "tf"),
        ("densenet121", "torch"),
        ("mobilenet_0.25_128", "tf"),
        ("mobilenetv2_1.00_224", "tf"),
        ("convnext_tiny", "none"),
    ],
)
def test_a_model_file_made_from_a_known_base_has_its_preprocessing(tmp_path, name, rule):
    pixels = keras.Input((PX, PX, 3))
    keras.Model(pixels, keras.layers.Conv2D(2, 3)(pixels), name=name).save(tmp_path / "mine.keras")

    assert load_base(str(tmp_path / "mine.keras")).preprocessing == rule


def test_other_weights_can_be_loaded_into_a_model_file(tiny_base, tmp_path):
    donor = tiny_model(seed=8)
    path = write_legacy(donor, tmp_path / "other.h5")

    base = load_base(str(tiny_base), weights=str(path))

    assert base.weights_source == "other.h5"
    assert same_weights(base.model, donor)


def test_random_weights_can_replace_those_of_a_file(tiny_base):
    first, second = (load_base(str(tiny_base), weights="none") for _ in range(2))

    assert first.weights_source == "none"
    assert same_weights(first.model, second.model)
    assert not same_weights(first.model, tiny_model())


def test_a_sequential_model_becomes_a_graph(tmp_path):
    layers = [keras.Input((PX, PX, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(2, 3, name="last")]
    keras.Sequential(layers).save(tmp_path / "sequential.keras")

    base = load_base(str(tmp_path / "sequential.keras"))

    assert base.model.layers[-1].name == "last"
    assert base.model(PIXELS).shape == (2, PX - 2, PX - 2, 2)


def free_size(path, **layers) -> str:
    pixels = keras.Input((None, None, 3))
    keras.Model(pixels, keras.layers.Conv2D(2, 3, name="last")(pixels), name="unknown").save(path)
    return str(path)


def test_a_model_whose_resizing_and_scaling_are_within_a_model_needs_neither_option(tmp_path):
    before = keras.Sequential([keras.layers.Resizing(24, 20), keras.layers.Rescaling(1 / 255)])
    pixels = keras.Input((None, None, 3))
    keras.Model(pixels, keras.layers.Conv2D(2, 3)(before(pixels)), name="unknown").save(tmp_path / "nested.keras")

    base = load_base(str(tmp_path / "nested.keras"))

    assert (base.image_size, base.preprocessing) == ((24, 20), "none")


def test_a_rescaling_above_the_first_weights_is_no_preprocessing(tmp_path):
    pixels = keras.Input((PX, PX, 3))
    keras.Model(pixels, keras.layers.Rescaling(0.5)(keras.layers.Conv2D(2, 3)(pixels))).save(tmp_path / "late.keras")

    with pytest.raises(OptionError, match=r"the preprocessing of .* is unknown"):
        load_base(str(tmp_path / "late.keras"))


def test_a_model_for_images_of_any_size_needs_a_size(tmp_path):
    path = free_size(tmp_path / "any.keras")

    with pytest.raises(OptionError, match=r"any\.keras takes images of any size\. Give one with --image-size"):
        load_base(path, preprocessing="tf")
    assert load_base(path, preprocessing="tf", image_size=(40, 50)).image_size == (40, 50)


def test_an_unknown_model_needs_a_preprocessing(tmp_path):
    path = free_size(tmp_path / "any.keras")

    with pytest.raises(
        OptionError, match=r"the preprocessing of .* is unknown\. Give --preprocessing with one of none, tf"
    ):
        load_base(path, image_size=(40, 50))


def test_a_model_that_does_not_take_rgb_images_is_refused(tmp_path):
    pixels = keras.Input((8, 8, 1))
    keras.Model(pixels, keras.layers.Flatten()(pixels)).save(tmp_path / "grey.keras")

    with pytest.raises(
        BaseError, match=r"does not take RGB images; expected one input \(n, h, w, 3\), found \(None, 8, 8, 1\)"
    ):
        load_base(str(tmp_path / "grey.keras"))


def test_code_in_a_model_file_is_not_run(tmp_path):
    pixels = keras.Input((8, 8, 3))
    keras.Model(pixels, keras.layers.Lambda(lambda x: x * 2)(pixels)).save(tmp_path / "code.keras")

    with pytest.raises(
        BaseError, match=r"cannot open .*code\.keras: .*Lambda.*expected a model that Keras opens in safe"
    ):
        load_base(str(tmp_path / "code.keras"))


@pytest.mark.parametrize("kind", ["missing", "folder", "junk", "empty", "cut short"])
def test_files_that_are_not_models_are_refused(tmp_path, tiny_base, kind):
    path = tmp_path / "model.keras"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"junk": b"junk", "empty": b"", "cut short": tiny_base.read_bytes()[:3000]}[kind])

    with pytest.raises(BaseError, match=r"(no model file|cannot open) .*model\.keras"):
        load_model_file(path)


def test_a_base_is_frozen(small):
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.name = "other"
