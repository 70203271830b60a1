"""The bundled base: its size, its accuracy, and the tool that trains it."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from helpers import compiling, same_weights
from permafrost.errors import BaseError, WeightsError
from permafrost.trunk.bases import load_base
from permafrost.trunk.resnet20 import resnet20
from permafrost.trunk.table import BASES

ROOT = Path(__file__).resolve().parents[2]
NAME = "resnet20-cifar10"
ACCURACY = 0.8928
"""On the 10,000 test images; `docs/bundled-base.md` gives it too."""
WEIGHTS = ROOT / "src" / "permafrost" / "trunk" / str(BASES["resnet20_cifar10"].bundled)


def pretraining():
    """`tools/pretrain_resnet20.py`, as a module."""
    spec = importlib.util.spec_from_file_location("pretrain_resnet20", ROOT / "tools" / "pretrain_resnet20.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Where its data classes look for their annotations.
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundled() -> keras.Model:
    return load_base(NAME).model


def test_its_own_weights_are_the_default(bundled):
    base = load_base(NAME, image_size=(48, 64))

    assert (base.name, base.weights_source, base.preprocessing) == ("resnet20_cifar10", "bundled", "tf")
    assert base.model.output_shape == (None, 12, 16, 64)
    assert same_weights(base.model, bundled)


def test_it_takes_any_size_from_32_px():
    assert load_base(NAME).image_size == (32, 32)
    with pytest.raises(BaseError, match=r"image size too small for resnet20_cifar10; expected at least 32 px"):
        load_base(NAME, image_size=(31, 40))


def test_it_has_a_quarter_of_a_million_weights_in_a_small_file(bundled):
    assert 0.26e6 < bundled.count_params() < 0.28e6
    assert WEIGHTS.stat().st_size <= 1.5e6


def test_it_has_random_weights_but_none_of_imagenet(bundled):
    random = load_base(NAME, weights="none")

    assert random.weights_source == "none"
    assert not np.array_equal(random.model.get_weights()[0], bundled.get_weights()[0])
    with pytest.raises(WeightsError, match=r"resnet20_cifar10 was not trained on ImageNet\. Leave --weights out"):
        load_base(NAME, weights="imagenet")


@pytest.fixture(scope="module")
def classifier() -> keras.Model:
    """The network with the classifier that it was trained with."""
    model = resnet20(include_top=True)
    model.load_weights(WEIGHTS)
    return model


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_it_classifies_cifar_10s_test_images(classifier, shared, count):
    module = pretraining()
    pixels, labels = module.read_images(shared / "data" / "cifar10.h5", "test", count)

    assert len(labels) == count
    assert module.evaluate(classifier, pixels, labels) == pytest.approx(ACCURACY, abs=0.03 if count < 10_000 else 5e-4)


def test_an_epochs_images_are_the_same_after_a_restart_and_differ_between_epochs(monkeypatch):
    module = pretraining()
    monkeypatch.setattr(module, "CLASSES", 64)  # One label per image identifies it.
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), np.arange(64)
    cycle = module.Cycle(epochs=2, batch_size=16, small_epochs=1, small_size=24, cutout=0.375)

    first, again, next_one = (module.Epoch(pixels, labels, cycle, epoch) for epoch in (0, 0, 1))

    assert len(first) == 4
    assert all(np.array_equal(a, b) for a, b in zip(first[2], again[2], strict=True))
    assert (first[0][0].shape, next_one[0][0].shape) == ((16, 24, 24, 3), (16, 32, 32, 3))
    assert sorted(np.concatenate([next_one[i][1] for i in range(4)]).argmax(axis=1)) == list(range(64))
    assert first[0][0].min() >= -1
    assert first[0][0].max() <= 1


def test_cutout_paints_a_square_over_each_image():
    module = pretraining()
    pixels, labels = np.full((64, 32, 32, 3), 255, np.uint8), np.zeros(64, np.int64)
    cycle = module.Cycle(epochs=1, batch_size=64, shift=0, cutout=0.375)

    whole, _ = module.Epoch(pixels, labels, dataclasses.replace(cycle, cutout=0.0), 0)[0]
    cut, _ = module.Epoch(pixels, labels, cycle, 0)[0]

    assert (whole == 1).all()
    painted = [np.argwhere(image[..., 0] != 1) for image in cut]
    sides = np.array([np.ptp(places, axis=0) + 1 for places in painted])
    assert all(len(places) == height * width for places, (height, width) in zip(painted, sides, strict=True))
    assert sides.max() == 12
    assert sides.min() >= 6  # It hangs over the edge by half at most.
    assert len({tuple(places[0]) for places in painted}) > 32


@pytest.mark.slow
@pytest.mark.parametrize("begun", [1, 4])
@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")
def test_resumed_training_ends_as_uninterrupted_training_does(tmp_path, monkeypatch, begun):
    module = pretraining()
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), generator.integers(0, 10, 64)
    cycle = module.Cycle(epochs=3, batch_size=32, small_epochs=1, small_size=16, warmup_epochs=1)
    cycles = (cycle, dataclasses.replace(cycle, small_epochs=0, peak_rate=0.1))
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()

    epochs = iter([module.Epoch] * begun)

    with compiling(False):
        whole = module.train(pixels, labels, cycles, folders[0])
        with monkeypatch.context() as patch, pytest.raises(StopIteration):
            patch.setattr(module, "Epoch", lambda *args, **options: next(epochs)(*args, **options))
            module.train(pixels, labels, cycles, folders[1])
        resumed = module.train(pixels, labels, cycles, folders[1])

    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        assert np.allclose(a, b, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only on PyTorch the network has layers of its own")
def test_the_networks_own_layers_on_pytorch_train_like_those_of_keras():
    own, plain = pretraining().network(), resnet20(include_top=True)
    plain.set_weights(own.get_weights())
    generator = np.random.default_rng(0)
    pixels, labels = generator.normal(size=(8, 32, 24, 3)).astype(np.float32), generator.integers(0, 10, 8)

    for model in (own, plain):
        model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
        model.train_on_batch(pixels, labels)

    assert type(own.layers[1]) is not type(plain.layers[1])
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(own.get_weights(), plain.get_weights(), strict=True))
