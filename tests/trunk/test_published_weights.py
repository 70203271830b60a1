"""Legacy `.h5` weights are read bit for bit, and hostile or damaged files are refused."""

from __future__ import annotations

import h5py
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import same_weights
from permafrost.errors import WeightsError
from permafrost.trunk.published_weights import is_legacy_weights, load_legacy_weights
from samples import legacy_group, tiny_model, write_legacy


@pytest.fixture(scope="module")
def donor() -> keras.Model:
    return tiny_model(seed=5)


@pytest.fixture
def model() -> keras.Model:
    return tiny_model(seed=0)


@pytest.mark.parametrize("group", ["", "model_weights"], ids=["weights alone", "a whole model"])
def test_weights_are_loaded_bit_for_bit(model, donor, tmp_path, group):
    write_legacy(donor, tmp_path / "w.h5", group=group)

    assert is_legacy_weights(tmp_path / "w.h5")
    load_legacy_weights(model, tmp_path / "w.h5")

    assert same_weights(model, donor)


def test_a_file_that_keras_itself_wrote_is_read(model, donor, tmp_path):
    donor.save(tmp_path / "whole.h5")

    load_legacy_weights(model, tmp_path / "whole.h5")

    assert same_weights(model, donor)


def test_layers_are_matched_by_order_not_by_name(model, donor, tmp_path):
    write_legacy(donor, tmp_path / "w.h5", rename=lambda name: f"older_{name}")

    load_legacy_weights(model, tmp_path / "w.h5")

    assert same_weights(model, donor)


def test_layers_after_the_models_own_are_ignored(model, donor, tmp_path):
    write_legacy(donor, tmp_path / "w.h5")
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        legacy_group(file, "predictions", {"kernel:0": np.zeros((16, 5), np.float32)})

    load_legacy_weights(model, tmp_path / "w.h5")

    assert same_weights(model, donor)


def test_a_list_of_layers_split_over_several_attributes_is_joined(model, donor, tmp_path):
    write_legacy(donor, tmp_path / "w.h5")
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]

    load_legacy_weights(model, tmp_path / "w.h5")

    assert same_weights(model, donor)


def test_a_layer_that_does_not_fit_is_named_with_both_shapes(donor, tmp_path):
    write_legacy(donor, tmp_path / "w.h5")
    pixels = keras.Input((32, 32, 3))
    other = keras.Model(pixels, keras.layers.Conv2D(4, 3, name="other_stem")(pixels))

    with pytest.raises(WeightsError) as caught:
        load_legacy_weights(other, tmp_path / "w.h5")

    assert str(caught.value) == (
        f"the weights of stem in {tmp_path}/w.h5 do not fit layer other_stem; "
        "expected shapes [(3, 3, 3, 4), (4,)], found [(3, 3, 3, 8), (8,)]"
    )


def test_too_few_layers_are_refused_with_both_counts(model, tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = np.array([], "S1")
        legacy_group(file, "stem", {"kernel:0": np.zeros((3, 3, 3, 8), np.float32)})

    with pytest.raises(WeightsError, match=r"do not fit tiny; expected 5 layers, found 1"):
        load_legacy_weights(model, tmp_path / "w.h5")


@pytest.mark.parametrize("bad", ["external link", "soft link", "external data", "virtual data", "text", "missing"])
def test_anything_but_plain_arrays_of_numbers_is_refused(model, donor, tmp_path, bad):
    write_legacy(donor, tmp_path / "w.h5")
    write_legacy(donor, tmp_path / "other.h5")
    (tmp_path / "secret").write_bytes(bytes(3 * 3 * 3 * 8 * 4))
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        del file["stem/kernel:0"]
        if bad == "external link":
            file["stem/kernel:0"] = h5py.ExternalLink("other.h5", "/stem/kernel:0")
        elif bad == "soft link":
            file["stem/kernel:0"] = h5py.SoftLink("/right/kernel:0")
        elif bad == "external data":
            source = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("stem/kernel:0", (3, 3, 3, 8), "<f4", external=source)
        elif bad == "virtual data":
            layout = h5py.VirtualLayout((3, 3, 3, 8), "<f4")
            layout[...] = h5py.VirtualSource(tmp_path / "other.h5", "/stem/kernel:0", (3, 3, 3, 8))
            file.create_virtual_dataset("stem/kernel:0", layout)
        elif bad == "text":
            file["stem/kernel:0"] = "zeros"

    with pytest.raises(WeightsError, match=r"damaged weights file .*w\.h5: kernel:0 is not a plain array of numbers"):
        load_legacy_weights(model, tmp_path / "w.h5")


def test_a_layer_that_is_a_link_to_another_file_is_refused(model, donor, tmp_path):
    write_legacy(donor, tmp_path / "w.h5")
    write_legacy(donor, tmp_path / "other.h5")
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        del file["stem"]
        file["stem"] = h5py.ExternalLink("other.h5", "/stem")

    with pytest.raises(WeightsError, match=r"damaged weights file .*: stem is missing or a link"):
        load_legacy_weights(model, tmp_path / "w.h5")


def test_another_hdf5_file_does_not_have_the_layout(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.zeros(3)

    assert not is_legacy_weights(tmp_path / "other.h5")


@pytest.mark.parametrize("data", [b"", b"no HDF5 at all"])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, data):
    (tmp_path / "w.h5").write_bytes(data)

    with pytest.raises(WeightsError, match=r"cannot read weights from .*w\.h5: .*; expected a whole HDF5 file"):
        is_legacy_weights(tmp_path / "w.h5")


@pytest.fixture(scope="module")
def receiver() -> keras.Model:
    """A model that weights are loaded into."""
    return tiny_model()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_either_read_or_refused(donor, receiver, tmp_path, data):
    path = write_legacy(donor, tmp_path / "w.h5")
    whole = bytearray(path.read_bytes())
    # Arrays take most of the file; the layout lies before and between them.
    places = st.one_of(st.integers(0, len(whole) - 1), st.integers(0, 4000))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        whole[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)

    try:
        if is_legacy_weights(path):
            load_legacy_weights(receiver, path)
    except WeightsError as error:
        assert "w.h5" in str(error)
