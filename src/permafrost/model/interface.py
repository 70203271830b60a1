"""How images go into a Keras model, and how probabilities come out of it.

A model that no run wrote may take images in other forms than RGB, and may return other numbers than probabilities. Its
graph says which; what the graph does not say is checked on the numbers that the model returns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final

import keras
import numpy as np

from permafrost.errors import RunError
from permafrost.images.resizing import resize, resized_image
from permafrost.model.assembly import is_assembled
from permafrost.trunk.graph import first_operations, histories, tensors_of

SUM_TOLERANCE: Final = 1e-2
"""The maximum difference of the sum of an image's probabilities from 1. A bfloat16 has 8 bits."""

PASSING: Final = frozenset(
    (
        *("InputLayer", "ConvertToTensor", "Identity", "Cast", "ActivityRegularization"),
        *("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise"),
        *("Flatten", "Reshape", "Squeeze", "GlobalAveragePooling2D", "AveragePooling2D"),
    )
)
"""Operations that leave logits logits and probabilities probabilities."""

SCALING: Final = frozenset(
    (*("Rescaling", "Normalization", "BatchNormalization"), *("Multiply", "TrueDivide", "Divide", "Subtract", "Add"))
)
"""Operations that scale pixels if none before them has weights."""

LAYERS_WITH_ACTIVATION: Final = frozenset(["Dense", "EinsumDense", "Conv2D", "Activation"])

UNIT_OPERATIONS: Final = {"Softmax": "softmax", "Sigmoid": "sigmoid", "LogSoftmax": "linear"}
"""What is known about units that these layers or functions compute."""

UNITS: Final = {"softmax": "softmax", "log_softmax": "linear", "linear": "linear", "sigmoid": "sigmoid"}
"""What is known about units with these activations. The softmax of logarithms of probabilities is the probabilities."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interface:
    """The images that a model takes and the numbers that it returns.

    Attributes:
        name: the model's name, for display.
        grey: whether it takes grey images.
        channels_first: whether it takes (n, channels, h, w).
        size: the height and width that it takes; None where it takes any.
        resizing: the layer with which the model itself resizes images; None if it does not.
        scales: whether it scales pixels before its first weights.
        assembled: whether `assembly.assemble` made it.
        units: the number of outputs per image.
        kind: `softmax`, `linear`, `sigmoid`, or the name of the last operation if that is none of these.
    """

    name: str
    grey: bool
    channels_first: bool
    size: tuple[int | None, int | None]
    resizing: Any
    scales: bool
    assembled: bool
    units: int
    kind: str

    @property
    def class_count(self) -> int:
        """The number of classes: one unit tells two classes apart."""
        return max(self.units, 2)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Return the model's input for an image (h, w, 3) uint8: (*shape) float32.

        Images of different sizes cannot share a batch, and a deep network is slow on one image at a time. So a model's
        own resizing layer runs on each image alone, and the whole model on batches of the resized images, which that
        layer leaves unchanged.
        """
        size = self._size_for(pixels)
        images = _grey(pixels, size)[..., None] if self.grey else resize(pixels, size)
        if self.channels_first:
            images = images.transpose(2, 0, 1)
        if self.resizing is None:
            return images.astype(np.float32)
        result: np.ndarray = keras.ops.convert_to_numpy(self.resizing(images[None].astype(np.float32)))[0]
        return result.astype(np.float32, copy=False)

    def _size_for(self, pixels: np.ndarray) -> tuple[int, int]:
        """Return the size to which an image is resized for the model: one side alone keeps the aspect ratio."""
        height, width = self.size
        if height is None and width is None:
            return pixels.shape[0], pixels.shape[1]
        if height is None:
            height = max(1, round(pixels.shape[0] * (width or 1) / pixels.shape[1]))
        if width is None:
            width = max(1, round(pixels.shape[1] * height / pixels.shape[0]))
        return height, width

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities (n, classes) float32 for outputs (n, units) float32.

        Raises:
            RunError: the outputs are not a distribution over classes.
        """
        if self.kind == "linear":
            outputs = _sigmoid(outputs) if self.units == 1 else _softmax(outputs)
        if self.units == 1:
            outputs = np.concatenate([1 - outputs, outputs], axis=1)
        valid = (outputs > -SUM_TOLERANCE).all(axis=1) & (np.abs(outputs.sum(axis=1) - 1) < SUM_TOLERANCE)
        if not valid.all():
            wrong = outputs[int(valid.argmin())]
            raise _no_probabilities(self.name, f"{_shown(wrong)} from {self.kind} for an image")
        return outputs.astype(np.float32)

    def notes(self, class_names: Sequence[str] = ()) -> tuple[str, ...]:
        """Return what is worth knowing about the use of the model, a line each."""
        if self.assembled:
            return ()
        second = f"the second class, {class_names[1]}" if len(class_names) == 2 else "the second of two classes"
        notes = [self._input_note()]
        if not self.scales:
            notes.append(
                "the model does not scale its input before its first weights; if it was trained on other values than "
                "0 to 255, save it with a layer that scales them"
            )
        if self.units == 1:
            what = "logit, and its sigmoid" if self.kind == "linear" else "output, which"
            notes.append(f"the model has one {what} is taken as the probability of {second}")
        elif self.kind == "linear":
            notes.append("the model's outputs are logits; their softmax is taken as the probabilities")
        return tuple(notes)

    def _input_note(self) -> str:
        form = "grey images, converted as Pillow's L" if self.grey else "RGB images"
        order = ", channels first" if self.channels_first else ""
        if None not in self.size:
            size = f"resized to {self.size[0]}x{self.size[1]}"
        elif self.resizing is not None:
            size = "which it resizes itself"
        elif self.size == (None, None):
            size = "at their own sizes"
        else:
            side = f"height {self.size[0]}" if self.size[1] is None else f"width {self.size[1]}"
            size = f"resized to {side} at their own aspect ratios"
        return f"the model is given {form}{order}, 0 to 255, {size}"


def inspect(model: keras.Model, name: str) -> Interface:
    """Return how a model with a graph of layers is used.

    Args:
        model: the model.
        name: its name, for display.

    Raises:
        RunError: it does not take images, or does not return one number per class.
    """
    grey, channels_first, size = _image_input(model, name)
    shape = _single(model.outputs, name, "outputs").shape
    if len(shape) != 2 or shape[1] is None:
        raise _no_probabilities(name, f"an output {_text(shape)}")
    units, kind = int(shape[1]), last_units(model)
    if kind == "sigmoid" and units > 1:
        raise _no_probabilities(name, f"{units} sigmoid units, which give each image any number of labels")
    if kind == "softmax" and units == 1:
        raise _no_probabilities(name, "a softmax of one unit, which is always 1")
    first = list(first_operations(model))
    resizing = next((layer for layer in first if isinstance(layer, keras.layers.Resizing)), None)
    return Interface(
        name=name,
        grey=grey,
        channels_first=channels_first,
        size=size,
        resizing=resizing if None in size else None,
        scales=any(type(operation).__name__ in SCALING for operation in first),
        assembled=is_assembled(model),
        units=units,
        kind=kind,
    )


def last_units(model: Any) -> str:
    """Return the kind of a model's output units: a value in `UNITS`, or the name of the operation that computes them.

    Args:
        model: a functional or sequential model; also one within another.
    """
    for operation in _from_output(model):
        name = type(operation).__name__
        if name in LAYERS_WITH_ACTIVATION:
            known = _activation_name(operation.activation)
            if (name, known) != ("Activation", "linear"):
                return UNITS.get(known, known)
        elif name in UNIT_OPERATIONS:
            return UNIT_OPERATIONS[name]
        elif name not in PASSING:
            return name
    return "no layer"


def _activation_name(activation: Any) -> str:
    """Return the name of a function or a layer that is an activation."""
    name = getattr(activation, "__name__", None) or type(activation).__name__
    return {"Softmax": "softmax", "hard_sigmoid": "sigmoid"}.get(name, str(name))


def _from_output(model: Any) -> Iterator[Any]:
    """Yield the operations that lead to a model's output, the last one first, until one has several inputs.

    Operations of a nested model stand in its place.
    """
    for member in reversed(model.layers) if isinstance(model, keras.Sequential) else _chain(model):
        if hasattr(member, "layers"):
            yield from _from_output(member)
        else:
            yield member


def _chain(model: Any) -> Iterator[Any]:
    if not hasattr(model, "operations"):
        yield model  # A subclass with code of its own.
        return
    operations = {operation.name: operation for operation in model.operations}
    config = model.get_config()
    nodes = {entry["name"]: entry["inbound_nodes"] for entry in config["layers"]}
    tensors = tensors_of(config["output_layers"])
    while len(tensors) == 1:
        name, node, _ = tensors[0]
        yield operations[name]
        tensors = histories(nodes[name][node]) if nodes[name] else []


def _image_input(model: keras.Model, name: str) -> tuple[bool, bool, tuple[int | None, int | None]]:
    """Return whether a model takes grey images, whether it takes channels first, and its height and width."""
    tensor = _single(model.inputs, name, "inputs")
    _, *shape = tensor.shape
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if len(shape) == 3 and dtype.startswith(("float", "bfloat", "int", "uint")):
        last, first = shape[2] in (1, 3), shape[0] in (1, 3)
        if last and not first:
            return shape[2] == 1, False, (shape[0], shape[1])
        if first and shape[2] not in (1, 2, 3, 4):
            return shape[0] == 1, True, (shape[1], shape[2])
    raise RunError(
        f"{name} does not take RGB or grey images",
        expected="an input (n, h, w, 3) or (n, h, w, 1)",
        found=f"{_text(tensor.shape)} {dtype}",
    )


def _single(tensors: Sequence[Any], name: str, what: str) -> Any:
    if len(tensors) != 1:
        shapes = ", ".join(f"{tensor.name} {_text(tensor.shape)}" for tensor in tensors)
        raise RunError(f"{name} has {len(tensors)} {what}", expected="one", found=shapes)
    return tensors[0]


def _grey(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    return resized_image(Image.fromarray(pixels).convert("L"), size)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    result: np.ndarray = expit(x.astype(np.float64))
    return result


def _softmax(x: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    result: np.ndarray = softmax(x.astype(np.float64), axis=1)
    return result


def _no_probabilities(name: str, found: str) -> RunError:
    return RunError(
        f"{name} does not give probabilities of classes",
        expected="one output (n, classes) of softmax or logits, or one unit",
        found=found,
    )


def _shown(row: np.ndarray) -> str:
    numbers = ", ".join(f"{value:.3g}" for value in row[:4])
    return f"[{numbers}{', ...' if len(row) > 4 else ''}]"


def _text(shape: Sequence[int | None]) -> str:
    return f"({', '.join('n' if number == 0 else str(size) for number, size in enumerate(shape))})"
