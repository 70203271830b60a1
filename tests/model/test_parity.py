"""An exported model agrees with the head on cached features, or is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from helpers import one_error_line
from permafrost.errors import ParityError
from permafrost.images.resizing import resize
from permafrost.model.parity import REDUCED_TOLERANCE, TOLERANCE, check_parity
from samples import PX, texture

pytest_plugins = ["upper"]

IMAGES = [texture("dots", 1), texture("checks", 2, (70, 33)), texture("stripes", 3, (PX, PX))]
"""Images of three sizes, the last one of the trunk's size."""


def compare(path: Path, features, reference_model: keras.Model, *, images=None):
    """Check a model's file against another model's outputs for images of the trunk's size."""
    size = features.spec.image_size

    def reference(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(reference_model(pixels.astype(np.float32)))

    if images is None:
        images = [(pixels, reference(resize(pixels, size)[None])[0]) for pixels in IMAGES]
    return check_parity(path, features.spec, images, reference=reference)


def tampered(run, path: Path, *, by: float) -> Path:
    """Copy the run's model with one weight of its head changed."""
    model = keras.models.load_model(run.model_path)
    layer = model.get_layer("head_probabilities")
    kernel, bias = layer.get_weights()
    kernel[0, 0] += by
    layer.set_weights([kernel, bias])
    model.save(path)
    return path


def test_a_run_records_the_parity_of_its_model(run):
    parity = run.about["parity"]

    assert parity["images"] == 9
    assert parity["synthetic"] is False
    assert parity["resized_max_difference"] <= parity["tolerance"] == TOLERANCE
    assert parity["full_size_equal_labels"] == 1.0
    assert 0 < parity["full_size_max_difference"] < 0.05


def test_an_unchanged_model_passes(run, features, exported):
    parity = compare(run.model_path, features, exported)

    assert parity.resized_max_difference <= 1e-6
    assert parity.images == 3


def test_one_changed_weight_of_the_head_fails(run, features, exported, tmp_path):
    path = tampered(run, tmp_path / "model.keras", by=0.5)

    with pytest.raises(ParityError) as caught:
        compare(path, features, exported)

    line = one_error_line(caught.value)
    assert f"the exported model {path} does not agree with the head on cached features" in line
    assert "expected probabilities within 0.0001 on 3 images, found a difference of 0." in line


def test_a_weight_that_is_not_a_number_fails(run, features, exported, tmp_path):
    path = tampered(run, tmp_path / "model.keras", by=float("nan"))

    with pytest.raises(ParityError, match="found a difference of nan"):
        compare(path, features, exported)


def test_without_images_parity_is_checked_on_random_ones(run, features, exported, tmp_path):
    parity = compare(run.model_path, features, exported, images=[])

    assert (parity.synthetic, parity.images) == (True, 8)
    assert parity.full_size_equal_labels is parity.full_size_max_difference is None
    with pytest.raises(ParityError):
        compare(tampered(run, tmp_path / "model.keras", by=5.0), features, exported, images=[])


def test_the_tolerance_is_larger_only_for_features_of_fewer_bits(run, features, exported):
    half = dataclasses.replace(features.spec, dtype="float16")
    expected = np.asarray(exported(resize(IMAGES[0], (PX, PX))[None].astype(np.float32)))[0]
    off = [(IMAGES[0], expected + np.float32(0.01))]

    with pytest.raises(ParityError):
        check_parity(run.model_path, features.spec, off, reference=exported)

    assert check_parity(run.model_path, half, off, reference=exported).tolerance == REDUCED_TOLERANCE
