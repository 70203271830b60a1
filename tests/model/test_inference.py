"""A model is opened and run on images of any size."""

from __future__ import annotations

import threading
import time

import keras
import numpy as np
import pytest

from helpers import edit_json, one_error_line
from permafrost.errors import BaseError, ImageError, RunError
from permafrost.images.resizing import resize
from permafrost.images.sources import ArrayImage, FileImage
from permafrost.model import inference
from permafrost.model.inference import OpenModel, open_model, probabilities, read_images
from permafrost.model.interface import Interface, inspect
from permafrost.model.run import LABELS_FILE, RUN_FILE
from samples import PX, encoded, texture

pytest_plugins = ["upper"]

IMAGES = [texture("dots", 1), texture("checks", 2, (70, 33)), texture("stripes", 3, (PX, PX))]
"""Images of three sizes."""


def outputs_of(model: keras.Model, images: list[np.ndarray], **options: int) -> np.ndarray:
    """Run a model on images of any size."""
    return probabilities(model, map(inspect(model, "the model").prepare, images), **options)


def test_probabilities_do_not_depend_on_the_batch(exported):
    images = [texture("checks", seed, (20 + seed, 50 - seed)) for seed in range(7)]

    together = outputs_of(exported, images, batch_size=4)

    assert together.shape == (7, 3)
    assert together.dtype == np.float32
    singly = [outputs_of(exported, [pixels], batch_size=4)[0] for pixels in images]
    assert np.allclose(together, singly, atol=1e-6)
    full_size = [np.asarray(exported(pixels[None].astype(np.float32)))[0] for pixels in images]
    assert np.allclose(together, full_size, atol=1e-6)


def test_no_images_have_no_probabilities(exported):
    assert probabilities(exported, []).shape == (0, 3)


def foreign_model(shape: tuple[int | None, int | None, int], *, resizing: int | None = None) -> keras.Model:
    """A model from elsewhere: the softmax of the mean of each colour."""
    pixels = keras.Input(shape)
    x = keras.layers.Resizing(resizing, resizing, antialias=True)(pixels) if resizing else pixels
    return keras.Model(pixels, keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(x)))


def test_images_are_resized_for_a_foreign_model_of_a_fixed_size():
    model = foreign_model((10, 12, 3))

    found = outputs_of(model, IMAGES)

    expected = [np.asarray(model(resize(pixels, (10, 12))[None].astype(np.float32)))[0] for pixels in IMAGES]
    assert np.allclose(found, expected, atol=1e-6)


def test_images_are_resized_as_a_foreign_models_own_layer_does():
    model = foreign_model((None, None, 3), resizing=10)

    found = outputs_of(model, IMAGES)

    expected = [np.asarray(model(pixels[None].astype(np.float32)))[0] for pixels in IMAGES]
    assert np.allclose(found, expected, atol=1e-5)


def test_a_foreign_model_without_a_size_takes_each_image_at_its_own():
    model = foreign_model((None, None, 3))
    images = [IMAGES[0], *IMAGES, IMAGES[0], IMAGES[0]]

    found = outputs_of(model, images)

    expected = [np.asarray(model(pixels[None].astype(np.float32)))[0] for pixels in images]
    assert np.allclose(found, expected, atol=1e-6)


def test_a_large_image_is_a_batch_of_its_own(monkeypatch, batch_sizes):
    monkeypatch.setattr(inference, "BATCH_BYTES", 4 * IMAGES[0].size + 1)

    outputs_of(foreign_model((None, None, 3)), [IMAGES[0]] * 3)

    assert batch_sizes == [1, 1, 1]


@pytest.fixture
def batch_sizes(monkeypatch) -> list[int]:
    """The sizes of all batches that Keras models compute."""
    sizes: list[int] = []
    run = keras.Model.predict_on_batch

    def recorded(self, pixels):
        sizes.append(len(pixels))
        return run(self, pixels)

    monkeypatch.setattr(keras.Model, "predict_on_batch", recorded)
    return sizes


def test_one_image_is_computed_as_a_batch_of_one(exported, batch_sizes):
    outputs_of(exported, IMAGES[:1])

    assert batch_sizes == [1]


def test_many_images_are_computed_in_batches_of_the_given_size(exported, batch_sizes):
    outputs_of(exported, IMAGES[:2] * 4, batch_size=3)

    assert batch_sizes[:2] == [3, 3]
    assert len(batch_sizes) == 3


@pytest.fixture
def any_size() -> OpenModel:
    """A model that takes images as they are."""
    return open_model(foreign_model((None, None, 3)))


def test_images_are_read_in_order(any_size):
    images = [ArrayImage(np.full((2, 2, 3), value, np.uint8)) for value in range(100)]
    images[7] = ArrayImage(np.zeros(3))

    found = list(read_images(images, any_size))

    assert isinstance(found[7], ImageError)
    assert all(found[index][0, 0, 0] == index for index in range(100) if index != 7)


def test_images_at_full_size_share_a_bounded_memory(any_size, monkeypatch, tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(encoded(texture("dots", number, (30, 30))))
    one_image = 8 * 30 * 30
    monkeypatch.setattr(inference, "DECODING_BYTES", one_image)
    monkeypatch.setattr(inference, "cpu_count", lambda: 4)
    held, most, lock = [0], [0], threading.Lock()

    def resize_slowly(pixels: np.ndarray) -> np.ndarray:
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        time.sleep(0.002)
        with lock:
            held[0] -= 1
        return pixels

    monkeypatch.setattr(Interface, "prepare", lambda _, pixels: resize_slowly(pixels))
    found = list(read_images([FileImage(str(tmp_path / f"{number}.png")) for number in range(12)], any_size))

    assert most == [1]
    assert all(np.array_equal(pixels, texture("dots", number, (30, 30))) for number, pixels in enumerate(found))


@pytest.mark.parametrize("form", ["nothing", "nothing.keras", "an image", "a folder"])
def test_a_path_that_is_neither_a_run_nor_a_model_is_refused(form, split_photos, tmp_path):
    image = next((split_photos / "test" / "dots").iterdir())
    place = {"an image": image, "a folder": split_photos}.get(form, tmp_path / form)

    with pytest.raises(RunError) as caught:
        open_model(place)

    line = one_error_line(caught.value)
    assert str(place) in line
    assert (
        "expected a run's folder or a .keras file" in line or "expected a folder that fit-head or finetune made" in line
    )


def test_a_labels_file_beside_a_model_names_its_classes(bare):
    bare.with_name(LABELS_FILE).write_text("stripes\ndots\nchecks\n")

    assert open_model(bare).class_names == ("stripes", "dots", "checks")


def test_a_file_that_is_only_named_like_a_model_is_refused(tmp_path):
    (tmp_path / "fake.keras").write_bytes(b"PK\x03\x04 not really")

    with pytest.raises(BaseError, match=r"cannot open .*fake\.keras"):
        open_model(tmp_path / "fake.keras")


def test_images_may_be_as_large_as_the_runs_extraction_allowed(own_run):
    edit_json(own_run / RUN_FILE, lambda about: about["libraries"].update(max_pixels=400))
    opened = open_model(own_run)
    small, large = (encoded(texture("dots", 1, (20, width))) for width in (20, 21))
    sources = []
    for name, data in (("small", small), ("large", large)):
        (own_run / name).write_bytes(data)
        sources.append(FileImage(str(own_run / name)))

    accepted, refused = read_images(sources, opened)

    assert isinstance(accepted, np.ndarray)
    assert "too many pixels" in one_error_line(refused)
