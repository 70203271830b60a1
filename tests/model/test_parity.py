"""An exported model agrees with the parts that it was made of, or is refused; what a head amplifies is a warning."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from helpers import one_error_line
from permafrost.errors import ParityError, RunError
from permafrost.extraction.extracted import trunk_of
from permafrost.images.resizing import resize
from permafrost.model.assembly import assemble
from permafrost.model.parity import REDUCED_TOLERANCE, TOLERANCE, Parity, Parts, check_parity, output_names
from permafrost.trunk.cutting import Trunk
from samples import PX, texture

pytest_plugins = ["upper"]

IMAGES = [texture("dots", 1), texture("checks", 2, (70, 33)), texture("stripes", 3, (PX, PX))]
"""Images of three sizes, the last one of the trunk's size."""

ROWS = list(enumerate(IMAGES))


def head_of(trunk: Trunk, *, gain: float = 1.0) -> keras.Model:
    """A head whose logits are features times `gain`, less those of the first image."""
    features = keras.Input(trunk.spec.shapes[0])
    layer = keras.layers.Dense(3, "softmax", name="head_probabilities")
    model = keras.Model(features, layer(features))
    kernel = np.random.default_rng(0).normal(size=(trunk.spec.shapes[0][0], 3)).astype(np.float32) * gain
    layer.set_weights([kernel, -features_of(trunk)[0] @ kernel])
    return model


def features_of(trunk: Trunk) -> np.ndarray:
    """The features of `IMAGES`."""
    pixels = np.stack([resize(image, trunk.spec.image_size) for image in IMAGES])
    return np.asarray(trunk.model(pixels.astype(np.float32)))


@pytest.fixture
def trunk(features) -> Trunk:
    """The trunk of `features`."""
    return trunk_of(features)


def parts_of(trunk: Trunk, head: keras.Model, *, cached: np.ndarray | None = None) -> Parts:
    found = features_of(trunk) if cached is None else cached
    return Parts(
        spec=trunk.spec,
        cut=output_names(trunk.model),
        cached=lambda rows: found[rows],
        trunk=trunk.model,
        head=head,
    )


def saved(path: Path, trunk: Trunk, head: keras.Model) -> Path:
    assemble(trunk, head).save(path)
    return path


def check(path: Path, parts: Parts, images=ROWS) -> Parity:
    return check_parity(path, parts, images)


def test_a_run_records_the_parity_of_its_model(run):
    parity = run.about["parity"]

    assert parity["images"] == 9
    assert parity["synthetic"] is False
    assert parity["head_max_difference"] <= 1e-6
    assert parity["features_max_difference"] <= 1e-5
    assert parity["resized_max_difference"] <= parity["tolerance"] == TOLERANCE
    assert parity["full_size_equal_labels"] == 1.0
    assert 0 < parity["full_size_max_difference"] < 0.05
    assert run.about["warnings"] == []


def test_an_unchanged_model_passes(trunk, tmp_path):
    head = head_of(trunk)

    parity = check(saved(tmp_path / "model.keras", trunk, head), parts_of(trunk, head))

    assert max(parity.head_max_difference, parity.features_max_difference, parity.resized_max_difference) <= 1e-6
    assert parity.images == 3
    assert parity.warnings == []


@pytest.mark.parametrize("by", [1e-3, float("nan")])
def test_one_changed_weight_of_the_head_fails(trunk, tmp_path, by):
    head = head_of(trunk)
    path = saved(tmp_path / "model.keras", trunk, head)
    kernel, bias = head.layers[-1].get_weights()
    bias[0] += by
    head.layers[-1].set_weights([kernel, bias])

    with pytest.raises(ParityError) as caught:
        check(path, parts_of(trunk, head))

    line = one_error_line(caught.value)
    assert "the exported model does not agree with the head on cached features" in line
    assert "expected probabilities within 0.0001 on 3 images, found a difference of " in line


def test_classes_in_another_order_fail(trunk, tmp_path):
    head = head_of(trunk)
    path = saved(tmp_path / "model.keras", trunk, head)
    head.layers[-1].set_weights([weights[..., [1, 0, 2]] for weights in head.layers[-1].get_weights()])

    with pytest.raises(ParityError, match="does not agree with the head"):
        check(path, parts_of(trunk, head))


def test_a_changed_weight_of_the_trunk_fails_and_the_line_says_what_to_do(trunk, tmp_path):
    head = head_of(trunk)
    parts = parts_of(trunk, head)
    other = trunk_with_changed_weight(trunk)
    path = saved(tmp_path / "model.keras", other, head)

    with pytest.raises(ParityError) as caught:
        check(path, parts)

    line = one_error_line(caught.value)
    assert "the exported model's trunk does not give the cached features" in line
    assert "expected a difference of at most 2e-04 of the largest on 3 images, found " in line
    assert line.endswith("Extract into a new folder with --engine keras, and fit to that set")


def trunk_with_changed_weight(trunk: Trunk) -> Trunk:
    model = keras.models.clone_model(trunk.model)
    weights = trunk.model.get_weights()
    weights[0] = weights[0] * np.float32(1.01)
    model.set_weights(weights)
    return dataclasses.replace(trunk, model=model)


def test_pixels_that_are_not_those_of_extraction_fail(trunk, tmp_path):
    head = head_of(trunk)
    images = keras.Input((None, None, 3))
    small = keras.layers.Resizing(PX // 2, PX // 2)(images)
    pixels = keras.ops.round(keras.layers.Resizing(PX, PX)(small))
    keras.Model(images, head.call(trunk.model.call(pixels))).save(tmp_path / "model.keras")

    with pytest.raises(ParityError, match="does not resize and round pixels as extraction does"):
        check(tmp_path / "model.keras", parts_of(trunk, head))


def test_a_model_that_does_not_round_is_refused(trunk, tmp_path):
    head = head_of(trunk)
    images = keras.Input((None, None, 3))
    pixels = keras.layers.Resizing(PX, PX)(images)
    keras.Model(images, head.call(trunk.model.call(pixels))).save(tmp_path / "model.keras")

    with pytest.raises(RunError, match="was not exported by permafrost"):
        check(tmp_path / "model.keras", parts_of(trunk, head))


def test_what_a_head_amplifies_is_measured_and_a_warning(trunk, tmp_path):
    head = head_of(trunk, gain=1e4)
    largest = np.abs(features_of(trunk)).max()
    noise = np.random.default_rng(1).normal(0, 3e-6 * largest, features_of(trunk).shape).astype(np.float32)
    parts = parts_of(trunk, head, cached=features_of(trunk) + noise)

    parity = check(saved(tmp_path / "model.keras", trunk, head), parts)

    assert parity.head_max_difference <= 1e-6
    assert 1e-6 < parity.features_max_difference < 2e-5
    assert parity.resized_max_difference > parity.tolerance
    (warning,) = parity.warnings
    assert f"differ by up to {parity.resized_max_difference:.1e} from those of the head on cached features" in warning
    assert "this head amplifies that" in warning


def test_without_images_parity_is_checked_on_random_ones(trunk, tmp_path):
    head = head_of(trunk)
    path = saved(tmp_path / "model.keras", trunk, head)

    parity = check(path, parts_of(trunk, head), images=[])

    assert (parity.synthetic, parity.images) == (True, 8)
    assert parity.full_size_equal_labels is parity.full_size_max_difference is None
    other = trunk_with_changed_weight(trunk)
    with pytest.raises(ParityError):
        check(path, parts_of(other, head), images=[])


@pytest.mark.parametrize(
    ("changes", "tolerance", "features_tolerance"),
    [
        ({}, TOLERANCE, 2e-4),
        ({"dtype": "float16"}, REDUCED_TOLERANCE, 2e-4 + 2**-11),
        ({"precision": "bfloat16"}, REDUCED_TOLERANCE, 0.1),
    ],
)
def test_the_tolerance_is_larger_only_for_features_of_fewer_bits(trunk, changes, tolerance, features_tolerance):
    parts = dataclasses.replace(parts_of(trunk, head_of(trunk)), spec=dataclasses.replace(trunk.spec, **changes))

    assert parts.tolerance == tolerance
    assert parts.features_tolerance == pytest.approx(features_tolerance)


def test_features_stored_as_float16_need_no_larger_tolerance_of_the_head(trunk, tmp_path):
    head = head_of(trunk, gain=100)
    parts = parts_of(trunk, head, cached=features_of(trunk).astype(np.float16).astype(np.float32))
    parts = dataclasses.replace(parts, spec=dataclasses.replace(trunk.spec, dtype="float16"))

    parity = check(saved(tmp_path / "model.keras", trunk, head), parts)

    assert parity.head_max_difference <= 1e-6
    assert parity.resized_max_difference > 1e-4
    assert parity.features_max_difference < 2**-11
