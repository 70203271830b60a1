"""One table of bases, and the loading of their weights."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import urllib.error

import h5py
import keras
import numpy as np
import pytest

from permafrost.errors import BaseError, OptionError, WeightsError
from permafrost.trunk.bases import BASES, DEFAULT_BASE, Base, canonical_names, load_base, load_model_file, parse_base
from permafrost.trunk.preprocessing import preprocess
from samples import PX, randomize, tiny_model, write_legacy

SMALL = "mobilenet:alpha=0.25"
PIXELS = np.random.default_rng(0).integers(0, 256, (2, PX, PX, 3)).astype(np.float32)


def small_base(weights: object = "none") -> Base:
    return load_base(SMALL, weights=str(weights), image_size=(PX, PX))


@pytest.fixture(scope="module")
def small() -> Base:
    """A small MobileNet of random weights. Not to be changed."""
    return small_base()


def mobilenet(*, alpha: float = 0.25, include_top: bool = False, seed: int = 3) -> keras.Model:
    model = keras.applications.MobileNet(
        alpha=alpha, include_top=include_top, weights=None, input_shape=(PX, PX, 3), classes=7
    )
    randomize(model, seed=seed)
    return model


@pytest.fixture(scope="module")
def donor() -> keras.Model:
    """Its weights are for others. Not to be changed."""
    return mobilenet()


@pytest.fixture(scope="module")
def donor_with_classifier() -> keras.Model:
    """The same with a classifier. Not to be changed."""
    return mobilenet(include_top=True)


@pytest.fixture(params=["without classifier", "with classifier"])
def either_donor(request, donor, donor_with_classifier) -> keras.Model:
    return donor if request.param == "without classifier" else donor_with_classifier


def same_weights(left: keras.Model, right: keras.Model) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left.get_weights(), right.get_weights(), strict=True))


# The table

OF_KERAS = [name for name, entry in BASES.items() if not entry.bundled]


def test_the_table_has_every_builder_of_keras_applications():
    builders = {name for name in dir(keras.applications) if inspect.isfunction(getattr(keras.applications, name))}

    assert {BASES[name].builder for name in OF_KERAS} == builders
    assert len(OF_KERAS) == len(builders) == 40
    assert DEFAULT_BASE in OF_KERAS


@pytest.fixture(scope="module")
def rules() -> dict[str, np.ndarray]:
    """Some pixels by each rule."""
    pixels = keras.Input((PX, PX, 3))
    return {
        name: keras.Model(pixels, preprocess(pixels, name))(PIXELS).numpy() for name in ("none", "tf", "caffe", "torch")
    }


@pytest.mark.parametrize("name", OF_KERAS)
def test_a_base_wants_the_input_that_its_own_module_says(name, rules):
    module = sys.modules[getattr(keras.applications, BASES[name].builder).__module__]

    expected = module.preprocess_input(PIXELS.copy())

    assert np.allclose(rules[BASES[name].preprocessing], expected, rtol=1e-5, atol=1e-5)


class ToldError(Exception):
    """Ends a builder once it has told its sizes."""


@pytest.mark.parametrize("name", OF_KERAS)
def test_default_and_least_sizes_are_those_of_the_builder(name, monkeypatch):
    told = []

    def obtain_input_shape(shape, default_size, min_size, **_):
        told.append((default_size, min_size))
        raise ToldError

    monkeypatch.setattr(keras.src.applications.imagenet_utils, "obtain_input_shape", obtain_input_shape)
    builder = getattr(keras.applications, BASES[name].builder)
    if name.startswith("mobilenet_v3"):  # These have a check of their own, and tell their size in prose alone.
        with pytest.raises(ValueError, match="at least 32x32"):
            builder(include_top=False, weights=None, input_shape=(31, 31, 3))
        told.append((224, 32))
    else:
        with pytest.raises(ToldError):
            builder(include_top=False, weights=None)

    assert told == [(BASES[name].default_size, BASES[name].minimum_size)]


# Names and options


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
def test_a_name_may_be_spelled_as_keras_does(text, name):
    assert parse_base(text) == (name, {})


@pytest.mark.parametrize("name", OF_KERAS)
def test_every_builders_own_spelling_finds_its_row(name):
    assert parse_base(BASES[name].builder) == (name, {})


def test_options_of_the_builder_stand_behind_a_colon():
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
def test_a_name_or_option_that_is_not_there_is_told_with_those_that_are(text, line):
    with pytest.raises(BaseError, match=line):
        parse_base(text)


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
def test_what_a_base_cannot_do_is_refused_before_it_is_built(options, error, line, monkeypatch):
    monkeypatch.delattr(keras.applications, "MobileNet")
    monkeypatch.setattr(keras.applications, "MobileNet", lambda **_: pytest.fail("it was built"), raising=False)

    with pytest.raises(error, match=line):
        load_base("mobilenet", **{"weights": "none", **options})


def test_an_option_that_the_builder_refuses_is_one_line():
    with pytest.raises(BaseError, match=r"^mobilenet cannot be built: .*"):
        load_base("mobilenet:depth_multiplier=-1", weights="none", image_size=(PX, PX))


def test_a_base_without_its_own_preprocessing_has_to_be_told_one():
    with pytest.raises(BaseError, match=r"needs to be told what its input wants\. Leave include_preprocessing out"):
        load_base("mobilenet_v3_small:include_preprocessing=False", weights="none", image_size=(PX, PX))


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(BaseError, match=r"expected channels_last, found channels_first\. Change image_data_format"):
            small_base()
    finally:
        keras.config.set_image_data_format("channels_last")


# Random weights and names of layers


def test_random_weights_are_the_same_whatever_was_built_and_drawn_before(small):
    tiny_model()
    keras.utils.set_random_seed(99)

    assert same_weights(small_base().model, small.model)


def test_random_weights_give_finite_features_that_differ_from_image_to_image(small):
    features = small.model(PIXELS).numpy()

    assert np.isfinite(features).all()
    assert features[0].std() > 0 and not np.allclose(features[0], features[1])


def test_layers_have_the_names_of_a_freshly_started_keras(inception):
    names = [layer.name for layer in inception.model.layers]

    assert len(set(names)) == len(names)
    assert {"conv2d", "conv2d_93", "batch_normalization_93", "activation_93", "mixed0", "mixed10"} <= set(names)
    assert "conv2d_94" not in names
    assert names[170:173] == ["activation_55", "conv2d_51", "conv2d_56"]  # Not in the order of their numbers.


def test_layers_that_were_given_names_keep_them():
    pixels = keras.Input((8, 8, 3), name="pixels")
    model = keras.Model(pixels, keras.layers.Conv2D(1, 1)(keras.layers.Conv2D(1, 1, name="mine")(pixels)))

    canonical_names(model)

    assert [layer.name for layer in model.layers] == ["pixels", "mine", "conv2d"]
    assert model.get_layer("conv2d") is model.layers[2]


# Weights from files


@pytest.mark.parametrize(
    ("either_donor", "group"),
    [("without classifier", ""), ("with classifier", "model_weights")],
    indirect=["either_donor"],
    ids=["weights alone without classifier", "a whole model with classifier"],
)
def test_published_weights_are_loaded_bit_for_bit(tmp_path, either_donor, group):
    path = write_legacy(either_donor, tmp_path / "published.h5", group=group)

    base = small_base(path)

    assert base.weights_source == "published.h5"
    donated = either_donor.get_weights()[: len(base.model.get_weights())]
    assert all(np.array_equal(a, b) for a, b in zip(base.model.get_weights(), donated, strict=True))


def test_weights_that_keras_3_saved_with_a_classifier_are_loaded_bit_for_bit(tmp_path, donor_with_classifier):
    donor_with_classifier.save_weights(tmp_path / "mine.weights.h5")

    base = small_base(tmp_path / "mine.weights.h5")

    donated = donor_with_classifier.get_weights()[: len(base.model.get_weights())]
    assert all(np.array_equal(a, b) for a, b in zip(base.model.get_weights(), donated, strict=True))


def test_weights_that_keras_3_saved_without_a_classifier_are_loaded_bit_for_bit(tmp_path, tiny_base):
    donor = tiny_model(seed=4)
    donor.save_weights(tmp_path / "mine.weights.h5")

    base = load_base(str(tiny_base), weights=str(tmp_path / "mine.weights.h5"))

    assert same_weights(base.model, donor)


def test_published_weights_that_do_not_fit_name_the_layer_and_both_shapes(tmp_path, donor):
    path = write_legacy(donor, tmp_path / "wider.h5")
    with h5py.File(path, "r+") as file:
        (name,) = file["conv1"]
        del file["conv1"][name]
        file["conv1"][name] = np.zeros((3, 3, 3, 16), np.float32)

    with pytest.raises(WeightsError) as caught:
        small_base(path)

    assert str(caught.value) == (
        f"the weights of conv1 in {path} do not fit layer conv1; expected shapes [(3, 3, 3, 8)], found [(3, 3, 3, 16)]"
    )


def test_keras_3_weights_that_do_not_fit_name_the_file_the_layer_and_both_shapes(tiny_base, tmp_path):
    pixels = keras.Input((PX, PX, 3))
    keras.Model(pixels, keras.layers.Conv2D(4, 3, name="stem")(pixels)).save_weights(tmp_path / "other.weights.h5")

    with pytest.raises(WeightsError) as caught:
        load_base(str(tiny_base), weights=str(tmp_path / "other.weights.h5"))

    assert str(caught.value).startswith(f"the weights in {tmp_path}/other.weights.h5 do not fit tiny: ")
    assert all(part in str(caught.value) for part in ("stem", "(3, 3, 3, 8)", "(3, 3, 3, 4)"))


def test_keras_3_weights_that_lack_a_layer_are_refused_not_filled_up(tiny_base, tmp_path):
    model = tiny_model()
    keras.Model(model.inputs[0], model.get_layer("stem").output).save_weights(tmp_path / "part.weights.h5")

    with pytest.raises(WeightsError, match=r"part\.weights\.h5 do not fit tiny: .*could not be loaded"):
        load_base(str(tiny_base), weights=str(tmp_path / "part.weights.h5"))


def test_an_hdf5_file_of_another_kind_is_no_weights_file(tiny_base, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.zeros(3)

    with pytest.raises(WeightsError, match=r"not in a layout of weights .* Give a whole model as --base FILE\.keras"):
        load_base(str(tiny_base), weights=str(tmp_path / "other.h5"))


def test_a_weights_file_cut_short_is_refused(tiny_base, tmp_path):
    path = write_legacy(tiny_model(), tmp_path / "published.h5")
    path.write_bytes(path.read_bytes()[:5000])

    with pytest.raises(WeightsError, match=r"cannot read weights from .*published\.h5"):
        load_base(str(tiny_base), weights=str(path))


def test_imagenet_without_a_network_names_the_file_to_put_in_place(tmp_path, monkeypatch):
    def urlretrieve(*_):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", urlretrieve)
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    with pytest.raises(WeightsError) as caught:
        load_base("mobilenet:alpha=0.25", image_size=(224, 224))

    assert str(caught.value) == (
        "the imagenet weights of mobilenet cannot be downloaded. "
        f"Put mobilenet_2_5_224_tf_no_top.h5 into {tmp_path}/models, or pass --weights FILE"
    )


def test_imagenet_is_taken_from_keras_own_folder_where_it_lies(tmp_path, monkeypatch, donor):
    (tmp_path / "models").mkdir()
    write_legacy(donor, tmp_path / "models" / "mobilenet_2_5_224_tf_no_top.h5")
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", lambda *_: pytest.fail("it was downloaded"))

    base = load_base(SMALL, image_size=(224, 224))

    assert base.weights_source == "imagenet"
    assert same_weights(base.model, donor)


def test_efficientnets_published_deviation_becomes_a_variance(tmp_path, monkeypatch):
    def first_block_of_b0(**options):
        blocks = keras.src.applications.efficientnet.DEFAULT_BLOCKS_ARGS[:1]
        return keras.src.applications.efficientnet.EfficientNet(1.0, 1.0, 224, blocks_args=blocks, **options)

    monkeypatch.setattr(keras.applications, "EfficientNetB0", first_block_of_b0)
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    donor = load_base("efficientnet_b0", weights="none", image_size=(PX, PX)).model
    donor.get_layer("normalization").set_weights([np.array(mean), np.array(deviation), np.array(0)])
    path = write_legacy(donor, tmp_path / "efficientnetb0_notop.h5")

    base = load_base("efficientnet_b0", weights=str(path), image_size=(PX, PX))

    normalized = keras.Model(base.model.inputs[0], base.model.get_layer("normalization").output)(PIXELS)
    assert np.allclose(normalized, (PIXELS / 255 - mean) / deviation, atol=1e-4)


def test_a_variance_that_a_user_computed_stays_as_it_is(tmp_path):
    pixels = keras.Input((PX, PX, 3))
    layer = keras.layers.Normalization(name="own")
    model = keras.Model(pixels, layer(pixels))
    model.save(tmp_path / "own.keras")
    layer.set_weights([np.zeros(3), np.array([4.0, 9.0, 16.0]), np.array(0)])
    path = write_legacy(model, tmp_path / "own.h5")

    base = load_base(str(tmp_path / "own.keras"), weights=str(path))

    assert np.allclose(base.model(PIXELS), PIXELS / (2, 3, 4), atol=1e-4)


# Model files


def test_a_model_file_gives_its_own_weights_size_and_name(tiny_base):
    base = load_base(str(tiny_base))

    assert (base.name, base.weights_source, base.image_size) == ("tiny", "tiny.keras", (PX, PX))
    assert same_weights(base.model, tiny_model())


def test_a_model_that_scales_its_input_wants_pixels_as_they_are(tiny_base):
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
def test_a_model_file_made_from_a_known_base_wants_what_that_wants(tmp_path, name, rule):
    pixels = keras.Input((PX, PX, 3))
    keras.Model(pixels, keras.layers.Conv2D(2, 3)(pixels), name=name).save(tmp_path / "mine.keras")

    assert load_base(str(tmp_path / "mine.keras")).preprocessing == rule


def test_other_weights_can_be_loaded_into_a_model_file(tiny_base, tmp_path):
    donor = tiny_model(seed=8)
    path = write_legacy(donor, tmp_path / "other.h5")

    base = load_base(str(tiny_base), weights=str(path))

    assert base.weights_source == "other.h5"
    assert same_weights(base.model, donor)


def test_random_weights_can_take_the_place_of_a_files(tiny_base):
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


def test_a_model_for_images_of_any_size_has_to_be_told_one(tmp_path):
    path = free_size(tmp_path / "any.keras")

    with pytest.raises(OptionError, match=r"any\.keras takes images of any size\. Say which with --image-size"):
        load_base(path, preprocessing="tf")
    assert load_base(path, preprocessing="tf", image_size=(40, 50)).image_size == (40, 50)


def test_a_model_that_does_not_say_what_its_input_wants_has_to_be_told(tmp_path):
    path = free_size(tmp_path / "any.keras")

    with pytest.raises(OptionError, match=r"does not say what its input wants\. .*--preprocessing: one of none, tf"):
        load_base(path, image_size=(40, 50))


def test_a_model_that_takes_no_rgb_images_is_refused(tmp_path):
    pixels = keras.Input((8, 8, 1))
    keras.Model(pixels, keras.layers.Flatten()(pixels)).save(tmp_path / "grey.keras")

    with pytest.raises(
        BaseError, match=r"takes no RGB images; expected one input \(n, h, w, 3\), found \(None, 8, 8, 1\)"
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
def test_what_is_no_model_file_is_refused(tmp_path, tiny_base, kind):
    path = tmp_path / "model.keras"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"junk": b"junk", "empty": b"", "cut short": tiny_base.read_bytes()[:3000]}[kind])

    with pytest.raises(BaseError, match=r"(no model file|cannot open) .*model\.keras"):
        load_model_file(path)


def test_a_base_is_a_record_that_cannot_be_changed(small):
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.name = "other"
