"""An engine runs a trunk on batches."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permafrost.engines.engine import Engine
from permafrost.engines.keras_engine import batch_size_for
from permafrost.engines.selection import make_engine
from permafrost.errors import OptionError
from samples import PX, tiny_model

PIXELS = np.random.default_rng(0).integers(0, 256, (8, PX, PX, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """The tiny base. Not to be changed."""
    return tiny_model()


@pytest.fixture(scope="module")
def engine(model) -> Engine:
    return make_engine("keras", model, batch_size=8)


@pytest.fixture(scope="module")
def whole(engine) -> np.ndarray:
    """The features of all images, computed in one batch."""
    return engine(PIXELS)[0]


def test_an_engine_takes_bytes_and_gives_what_the_model_gives(engine, model):
    (features,) = engine(PIXELS)

    assert features.dtype == np.float32
    assert np.allclose(features, model(PIXELS.astype(np.float32)), atol=1e-5)


def test_the_same_batch_gives_the_same_features_to_the_last_bit(engine):
    assert np.array_equal(engine(PIXELS)[0], engine(PIXELS)[0])


@settings(max_examples=10)
@given(rows=st.lists(st.integers(0, 7), min_size=1, max_size=8))
def test_an_images_features_do_not_depend_on_the_others_in_its_batch_or_on_how_full_it_is(engine, whole, rows):
    (features,) = engine(PIXELS[rows])

    assert features.shape == whole[rows].shape
    assert np.abs(features - whole[rows]).max() <= 1e-6 * np.abs(whole).max()


def test_every_batch_is_padded_to_one_size_so_that_nothing_is_compiled_again(model, monkeypatch):
    sizes = []
    predict = model.predict_on_batch

    def counted(batch):
        sizes.append(batch.shape)
        return predict(batch)

    monkeypatch.setattr(model, "predict_on_batch", counted)
    engine = make_engine("keras", model, batch_size=4)
    counts = [len(engine(PIXELS[:count])[0]) for count in (4, 1, 3)]

    assert counts == [4, 1, 3]
    assert sizes == [(4, PX, PX, 3)] * 3


def test_a_model_with_several_outputs_gives_one_array_each(model):
    several = keras.Model(model.inputs[0], [model.get_layer(name).output for name in ("left", "top")])

    left, top = make_engine("auto", several, batch_size=4)(PIXELS[:3])

    assert (left.shape, top.shape) == ((3, 16, 16, 8), (3, 8, 8, 16))


def test_an_engine_has_a_name_and_a_record(engine):
    assert engine.name == f"keras/{keras.backend.backend()}"


def test_an_unknown_engine_is_refused_with_the_known_ones(model):
    with pytest.raises(OptionError, match=r"unknown engine; expected auto or keras or openvino, found abacus"):
        make_engine("abacus", model, batch_size=1)


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 1), (2, 2), (3, 4), (9, 16), (17, 32), (32, 32), (100, 32)])
def test_few_images_are_padded_to_a_power_of_two(count, size):
    assert batch_size_for(count, 32) == size
