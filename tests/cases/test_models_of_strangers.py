"""A model that no run wrote gives probabilities of classes, or one line says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from helpers import one_error_line
from permafrost import cli
from permafrost.errors import PermafrostError
from permafrost.model.evaluate import evaluate
from permafrost.model.predict import predict
from samples import encoded

SIDE = 8
KERNEL = np.array([[-0.05], [0.0], [0.05]], np.float32)
"""A score that is negative for red and positive for blue."""


def score(images: np.ndarray) -> np.ndarray:
    """Return the score (n,) of images (n, h, w, 3)."""
    return images.astype(np.float64).mean((1, 2)) @ KERNEL[:, 0]


@pytest.fixture(scope="module")
def fruit(tmp_path_factory) -> Path:
    """Red and blue images of one size, a folder each."""
    folder = tmp_path_factory.mktemp("fruit")
    random = np.random.default_rng(0)
    for name, tint in (("apple", (140, 60, 100)), ("berry", (100, 60, 140))):
        (folder / name).mkdir()
        for number in range(6):
            pixels = np.clip(random.normal(tint, 8, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            (folder / name / f"{number}.png").write_bytes(encoded(pixels))
    return folder


def saved(path: Path, end: Callable[[Any], Any], units: int, shape: tuple[int | None, ...] = (SIDE, SIDE, 3)) -> Path:
    """Save a model of the score: `end` goes from logits (n, units) to the output."""
    images = keras.Input(shape)
    logits = layers.Dense(units)
    mean = layers.GlobalAveragePooling2D()(images)
    x = logits(mean)
    logits.set_weights([np.concatenate([np.zeros((3, units - 1), np.float32), KERNEL], axis=1), np.zeros(units)])
    keras.Model(images, end(x)).save(path)
    return path


ENDS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "one sigmoid unit": (1, layers.Activation("sigmoid")),
    "one sigmoid function": (1, lambda x: keras.ops.sigmoid(x)),
    "one logit": (1, lambda x: x),
    "softmax": (2, layers.Softmax()),
    "softmax function": (2, lambda x: keras.ops.softmax(x)),
    "logits": (2, lambda x: x),
    "logarithms": (2, layers.Activation("log_softmax")),
    "logits in layers that change nothing": (2, lambda x: layers.Activation("linear")(layers.Dropout(0.5)(x))),
    "softmax within a model": (2, lambda x: keras.Sequential([layers.Dropout(0.5), layers.Softmax()])(x)),
}


@pytest.mark.parametrize("end", ENDS)
def test_outputs_of_any_form_become_the_same_probabilities(end, fruit, tmp_path):
    units, layer = ENDS[end]
    path = saved(tmp_path / "model.keras", layer, units)

    metrics = evaluate(path, fruit, split="all")
    (answer,) = predict(path, [fruit / "berry" / "0.png"])

    image = np.asarray(Image.open(fruit / "berry" / "0.png"))[None]
    p = 1 / (1 + np.exp(-score(image)[0]))
    assert answer["label"] == "class 1"
    assert answer["probability"] == pytest.approx(p, abs=1e-5)
    assert metrics["accuracy"] == 1
    scores = [score(np.asarray(Image.open(path))[None])[0] for path in sorted(fruit.rglob("*.png"))]
    losses = [np.log1p(np.exp(value if number < 6 else -value)) for number, value in enumerate(scores)]
    assert metrics["log_loss"] == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.parametrize(
    ("end", "note"),
    [
        ("one sigmoid unit", "the model has one output, which is taken as the probability of the second class, berry"),
        (
            "one logit",
            "the model has one logit, and its sigmoid is taken as the probability of the second class, berry",
        ),
        ("logits", "the model's outputs are logits; their softmax is taken as the probabilities"),
    ],
)
def test_what_is_made_of_the_outputs_is_said(end, note, fruit, tmp_path, capsys):
    units, layer = ENDS[end]
    path = saved(tmp_path / "model.keras", layer, units)

    notes = evaluate(path, fruit, split="all")["notes"]
    assert note in notes
    assert any(line.startswith("the model is given RGB images, 0 to 255, resized to 8x8") for line in notes)
    assert any(line.startswith("the model does not scale its input") for line in notes)
    assert "the model does not name its classes; they are taken to be the dataset's, in order: apple, berry" in notes

    assert cli.run(["predict", str(path), str(fruit / "apple" / "0.png"), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["label"] == "class 0"
    assert f"note: {note.replace('the second class, berry', 'the second of two classes')}\n" in printed.err


def test_softmax_needs_no_note_and_a_scaling_layer_no_warning(fruit, tmp_path):
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(images))
    keras.Model(images, layers.Dense(2, "softmax")(x)).save(tmp_path / "model.keras")
    (tmp_path / "labels.txt").write_text("apple\nberry\n")

    notes = evaluate(tmp_path / "model.keras", fruit, split="all")["notes"]

    assert [note for note in notes if note.startswith("the model")] == [
        "the model is given RGB images, 0 to 255, resized to 8x8"
    ]


REFUSED: dict[str, tuple[Callable[[], keras.Model], str]] = {}


def refused(found: str) -> Callable[[Callable[[], keras.Model]], None]:
    return lambda make: REFUSED.update({make.__name__: (make, found)})


def over(images: Any, units: int, activation: str | None = None) -> Any:
    return layers.Dense(units, activation)(layers.GlobalAveragePooling2D()(images))


@refused("3 sigmoid units, which give each image any number of labels")
def several_labels():
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, over(images, 3, "sigmoid"))


@refused("a softmax of one unit, which is always 1")
def softmax_of_one_unit():
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, over(images, 1, "softmax"))


@refused("from Add for an image")
def numbers_that_are_not_a_distribution():
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, over(images, 3, "relu") + 1.0)


@refused("[nan, nan] from Multiply for an image")
def not_numbers():
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, over(images, 2, "softmax") * np.float32("nan"))


@refused("an output (n, 6, 6, 2)")
def a_class_per_pixel():
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, layers.Conv2D(2, 3, activation="softmax")(images))


@refused("has 2 outputs; expected one, found ")
def several_outputs():
    images = keras.Input((SIDE, SIDE, 3))
    return keras.Model(images, [over(images, 2, "softmax"), over(images, 4)])


@refused("has 2 inputs; expected one, found ")
def several_inputs():
    images, more = keras.Input((SIDE, SIDE, 3)), keras.Input((5,))
    return keras.Model([images, more], layers.Dense(2, "softmax")(layers.Concatenate()([over(images, 3), more])))


@refused("expected an input (n, h, w, 3) or (n, h, w, 1), found (n, 784) float32")
def flat_images():
    images = keras.Input((784,))
    return keras.Model(images, layers.Dense(2, "softmax")(images))


@refused("found (n, 8, 8, 4) float32")
def images_with_alpha():
    images = keras.Input((SIDE, SIDE, 4))
    return keras.Model(images, over(images, 2, "softmax"))


@refused("found (n, 5, 8, 8, 3) float32")
def sequences():
    images = keras.Input((5, SIDE, SIDE, 3))
    return keras.Model(images, layers.Dense(2, "softmax")(layers.Flatten()(images)))


@refused("found (n, 3, 8, 3) float32")
def channels_on_either_side():
    images = keras.Input((3, SIDE, 3))
    return keras.Model(images, over(images, 2, "softmax"))


@refused("the model cannot compute images of shape (8, 8, 3)")
def images_that_are_too_small():
    images = keras.Input((None, None, 3))
    return keras.Model(images, layers.Softmax()(layers.GlobalAveragePooling2D()(layers.Conv2D(2, 9)(images))))


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_does_not_classify_images_is_refused_with_what_it_does(case, fruit):
    make, found = REFUSED[case]

    with pytest.raises(PermafrostError) as caught:
        predict(make(), [fruit / "apple" / "0.png"])

    assert found in one_error_line(caught.value)


def grey_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), np.float32)[..., None]


def rgb_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32)


INPUTS: dict[str, tuple[tuple[int | None, ...], dict[str, Any], Callable[[Image.Image], np.ndarray]]] = {
    "grey": ((SIDE, SIDE, 1), {}, grey_of),
    "grey of any size": ((None, None, 1), {}, grey_of),
    "channels first": ((3, SIDE, SIDE), {}, lambda image: rgb_of(image).transpose(2, 0, 1)),
    "channels first of any size": ((3, None, None), {}, lambda image: rgb_of(image).transpose(2, 0, 1)),
    "grey, channels first": ((1, SIDE, SIDE), {}, lambda image: grey_of(image).transpose(2, 0, 1)),
    "any size": ((None, None, 3), {}, rgb_of),
    "one side": ((SIDE, None, 3), {}, rgb_of),
    "bytes": ((SIDE, SIDE, 3), {"dtype": "uint8"}, rgb_of),
    "float16": ((SIDE, SIDE, 3), {"dtype": "float16"}, rgb_of),
    "batches of one": ((SIDE, SIDE, 3), {"batch_size": 1}, rgb_of),
    "batches of four": ((SIDE, SIDE, 3), {"batch_size": 4}, rgb_of),
}


@pytest.mark.parametrize("form", INPUTS)
def test_images_are_given_in_the_form_that_the_model_takes(form, fruit, tmp_path):
    shape, options, convert = INPUTS[form]
    images = keras.Input(shape, name="image", **options)
    x = keras.ops.cast(images, "float32") / 255.0
    order = "channels_first" if shape[0] in (1, 3) else "channels_last"
    x = layers.GlobalAveragePooling2D(data_format=order)(x)
    # A dictionary of one tensor is used by that tensor.
    keras.Model({"image": images}, {"p": layers.Dense(2, "softmax", name="p")(x)}).save(tmp_path / "model.keras")
    paths = sorted(fruit.rglob("*.png"))

    answers = predict(tmp_path / "model.keras", paths, top=2)

    plain = keras.saving.load_model(tmp_path / "model.keras")
    for path, answer in zip(paths, answers, strict=True):
        given = convert(Image.open(path))[None].astype(options.get("dtype", "float32"))
        expected = np.asarray(plain({"image": given})["p"])[0]
        found = {best["label"]: best["probability"] for best in answer["top"]}
        assert [found["class 0"], found["class 1"]] == pytest.approx(expected.tolist(), abs=1e-4)


def test_one_side_keeps_the_aspect_ratio(fruit):
    images = keras.Input((4, None, 3))
    width = keras.ops.sum(keras.ops.ones_like(images)[:, 0, :, 0], axis=1)
    model = keras.Model(images, layers.Softmax()(keras.ops.stack([width * 0, width], axis=1)))

    (answer,) = predict(model, [np.zeros((8, 20, 3), np.uint8)])

    assert answer["probability"] == pytest.approx(1 / (1 + np.exp(-10)), abs=1e-6)


def test_a_models_own_resizing_within_a_model_is_used(tmp_path):
    before = keras.Sequential([layers.Resizing(6, 6), layers.Rescaling(1 / 255)])
    images = keras.Input((None, None, 3))
    model = keras.Model(images, layers.Dense(2, "softmax")(layers.Flatten()(before(images))))
    arrays = [np.random.default_rng(seed).integers(0, 256, (9 + seed, 12, 3), np.uint8) for seed in range(3)]

    answers = predict(model, arrays, top=2)

    for pixels, answer in zip(arrays, answers, strict=True):
        expected = np.asarray(model(pixels[None].astype(np.float32)))[0]
        assert answer["probability"] == pytest.approx(float(expected.max()), abs=1e-5)


def test_labels_that_do_not_fit_the_model_are_refused(fruit, tmp_path):
    path = saved(tmp_path / "model.keras", layers.Activation("sigmoid"), 1)
    (tmp_path / "labels.txt").write_text("berry\n")

    with pytest.raises(PermafrostError) as caught:
        predict(path, [fruit])

    assert "does not name the classes of" in one_error_line(caught.value)
    assert "expected 2 names, one per line, found 1" in str(caught.value)


class Doubled(layers.Layer):
    """A layer that is not registered."""

    def call(self, x):
        return x * 2


def with_layer(path: Path, layer: layers.Layer) -> Path:
    images = keras.Input((SIDE, SIDE, 3))
    keras.Model(images, over(layer(images), 2, "softmax")).save(path)
    return path


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a Lambda": (
        lambda folder: with_layer(folder / "m.keras", layers.Lambda(lambda x: x * 2)),
        "it has a Lambda layer, whose code is not run",
    ),
    "a class of its own": (
        lambda folder: with_layer(folder / "m.keras", Doubled()),
        "it has the custom class Doubled",
    ),
    "HDF5": (
        lambda folder: with_layer(folder / "m.h5", layers.Identity()),
        "m.h5 is not a .keras file; expected a run's folder or a .keras file. Convert it: keras.saving.load_model(",
    ),
    "weights alone": (
        lambda folder: shutil.copy(with_layer(folder / "m.keras", layers.Identity()), folder / "m.weights.h5"),
        "m.weights.h5 holds the weights of a model and not its layers",
    ),
    "HDF5 by another name": (
        lambda folder: with_layer(folder / "m.h5", layers.Identity()).rename(folder / "m.keras"),
        "it is not in the .keras format",
    ),
}


@pytest.mark.filterwarnings("ignore:.*HDF5 file:UserWarning")
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_not_opened_has_its_reason_in_one_line(kind, fruit, tmp_path):
    make, reason = FILES[kind]

    with pytest.raises(PermafrostError) as caught:
        predict(make(tmp_path), [fruit])

    line = one_error_line(caught.value)
    assert reason in line
    assert len(line) < 400


def test_a_saved_model_of_tensorflow_is_named_as_such(fruit, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")

    with pytest.raises(PermafrostError, match="is a SavedModel of TensorFlow"):
        predict(tmp_path / "saved", [fruit])


@pytest.mark.parametrize("model", [None, 7, {"a": 1}])
def test_what_is_not_a_model_is_refused(model, fruit):
    with pytest.raises(PermafrostError, match="not a model; expected a run, a Keras model, or a path"):
        predict(model, [fruit])
