"""Weights are loaded from files bit for bit, or refused; random weights are the same every time."""

from __future__ import annotations

import urllib.error

import h5py
import keras
import numpy as np
import pytest

from helpers import same_weights
from permafrost.errors import WeightsError
from permafrost.trunk.bases import load_base
from samples import PX, randomize, tiny_model, write_legacy
from small_base import PIXELS, SMALL, small_base

pytest_plugins = ["small_base"]


def mobilenet(*, alpha: float = 0.25, include_top: bool = False, seed: int = 3) -> keras.Model:
    model = keras.applications.MobileNet(
        alpha=alpha, include_top=include_top, weights=None, input_shape=(PX, PX, 3), classes=7
    )
    randomize(model, seed=seed)
    return model


@pytest.fixture(scope="module")
def donor() -> keras.Model:
    """A small MobileNet with other weights. Not to be changed."""
    return mobilenet()


@pytest.fixture(scope="module")
def donor_with_classifier() -> keras.Model:
    """The same as `donor` with a classifier. Not to be changed."""
    return mobilenet(include_top=True)


@pytest.fixture(params=["without classifier", "with classifier"])
def either_donor(request, donor, donor_with_classifier) -> keras.Model:
    return donor if request.param == "without classifier" else donor_with_classifier


def test_random_weights_do_not_depend_on_earlier_models_and_draws(small):
    tiny_model()
    keras.utils.set_random_seed(99)

    assert same_weights(small_base().model, small.model)


def test_random_weights_give_finite_features_that_differ_between_images(small):
    features = small.model(PIXELS).numpy()

    assert np.isfinite(features).all()
    assert features[0].std() > 0 and not np.allclose(features[0], features[1])


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


def test_keras_3_weights_without_one_of_the_layers_are_refused(tiny_base, tmp_path):
    model = tiny_model()
    keras.Model(model.inputs[0], model.get_layer("stem").output).save_weights(tmp_path / "part.weights.h5")

    with pytest.raises(WeightsError, match=r"part\.weights\.h5 do not fit tiny: .*could not be loaded"):
        load_base(str(tiny_base), weights=str(tmp_path / "part.weights.h5"))


def test_an_hdf5_file_of_another_kind_is_refused(tiny_base, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.zeros(3)

    with pytest.raises(WeightsError, match=r"not a weights file in .* Give a whole model as --base FILE\.keras"):
        load_base(str(tiny_base), weights=str(tmp_path / "other.h5"))


def test_a_truncated_weights_file_is_refused(tiny_base, tmp_path):
    path = write_legacy(tiny_model(), tmp_path / "published.h5")
    path.write_bytes(path.read_bytes()[:5000])

    with pytest.raises(WeightsError, match=r"cannot read weights from .*published\.h5"):
        load_base(str(tiny_base), weights=str(path))


def test_offline_imagenet_weights_are_refused_with_the_file_to_put_in_place(tmp_path, monkeypatch):
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


def test_imagenet_weights_in_keras_own_folder_are_not_downloaded(tmp_path, monkeypatch, donor):
    (tmp_path / "models").mkdir()
    write_legacy(donor, tmp_path / "models" / "mobilenet_2_5_224_tf_no_top.h5")
    monkeypatch.setattr(keras.src.utils.file_utils.config, "keras_home", lambda: str(tmp_path))
    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", lambda *_: pytest.fail("it was downloaded"))

    base = load_base(SMALL, image_size=(224, 224))

    assert base.weights_source == "imagenet"
    assert same_weights(base.model, donor)


def test_the_standard_deviation_of_published_efficientnets_becomes_a_variance(tmp_path, monkeypatch):
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


def test_a_variance_that_a_user_computed_stays(tmp_path):
    pixels = keras.Input((PX, PX, 3))
    layer = keras.layers.Normalization(name="own")
    model = keras.Model(pixels, layer(pixels))
    model.save(tmp_path / "own.keras")
    layer.set_weights([np.zeros(3), np.array([4.0, 9.0, 16.0]), np.array(0)])
    path = write_legacy(model, tmp_path / "own.h5")

    base = load_base(str(tmp_path / "own.keras"), weights=str(path))

    assert np.allclose(base.model(PIXELS), PIXELS / (2, 3, 4), atol=1e-4)
