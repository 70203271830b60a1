"""Cut a model below its lowest unfrozen layer.

The frontier is the set of tensors from a frozen operation to an unfrozen one. There may be several: Inception v3, cut
at layer 172, has three, from parallel branches of one block. Both halves share their layers with the model, so training
the upper half trains the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from permafrost.errors import CutError
from permafrost.trunk.cutting import Trunk
from permafrost.trunk.graph import architecture_digest, histories, walk, weights_digest
from permafrost.trunk.spec import TrunkSpec


@dataclasses.dataclass(frozen=True)
class Frontier:
    """A model cut in two.

    Attributes:
        trunk: the model from pixels to the crossing tensors, and what they depend on.
        tail: the model from the crossing tensors, in the trunk's order, to the output.
        crossing: names of the layers whose outputs cross.
    """

    trunk: Trunk
    tail: keras.Model
    crossing: tuple[str, ...]

    @property
    def frozen(self) -> bool:
        """Whether the trunk has weights. If not, nothing is frozen, and caching its features saves nothing."""
        return bool(self.trunk.model.weights)


def cut_below(model: keras.Model, pixels: Any, lowest: int, spec: TrunkSpec, base_layers: Sequence[str]) -> Frontier:
    """Cut a model just below the layer of the base with index `lowest`.

    Args:
        model: the model as loaded from its file, from images to probabilities.
        pixels: its tensor of images of the trunk's size, (n, h, w, 3) from 0 to 255.
        lowest: the layer's index in the base. Each layer of a base comes after those that it depends on, so layers with
            a lower index are below the cut.
        spec: the spec of the features that the model's head was fitted to.
        base_layers: names of the base's layers, in its order.

    Raises:
        CutError: a layer at the frontier is used several times.
    """
    crossing = crossing_tensors(model, base_layers[:lowest], base_layers[lowest:])
    operations = {operation.name: operation for operation in model.operations}
    tensors = [_output(operations[name], node, tensor) for name, node, tensor in crossing]
    names = tuple(name for name, _, _ in crossing)
    features = [_as_float32(tensor, name) for tensor, name in zip(tensors, names, strict=True)]
    trunk = keras.Model(pixels, features, name="trunk")
    cut_spec = dataclasses.replace(
        spec,
        architecture=architecture_digest(trunk),
        weights=weights_digest(trunk),
        pooling="none",
        cut="+".join(names),
        shapes=tuple(_shape(tensor, name) for tensor, name in zip(tensors, names, strict=True)),
    )
    # This is a tuple, because TensorFlow does not accept batches that are lists of tensors.
    tail = keras.Model(tuple(tensors) if len(tensors) > 1 else tensors[0], model.outputs[0], name="tail")
    return Frontier(Trunk(trunk, cut_spec, tuple(base_layers)), tail, names)


def crossing_tensors(model: keras.Model, frozen: Sequence[str], unfrozen: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return the tensors from an operation below the cut to one above it, each as operation, node and tensor index.

    An operation that is not a layer of the base is below the cut if all its inputs are: so resizing and preprocessing
    are below, and the head is above.

    Args:
        model: a functional model.
        frozen: names of the base's layers below the cut.
        unfrozen: names of the base's layers above it.

    Raises:
        CutError: a layer below the cut depends on one above it.
    """
    config = model.get_config()
    arguments = {entry["name"]: entry["inbound_nodes"] for entry in config["layers"]}
    above, below_names = set(unfrozen), set(frozen)
    below: set[tuple[str, int]] = set()
    crossing: dict[tuple[str, int, int], None] = {}
    for name, node in walk(config):
        needed = histories(arguments[name][node]) if arguments[name] else []
        from_below = [entry for entry in needed if entry[:2] in below]
        if name not in above and len(from_below) == len(needed):
            below.add((name, node))
        elif name in below_names:
            raise CutError(f"layer {name} is below the cut and depends on a layer above it", do="unfreeze all")
        else:
            crossing |= dict.fromkeys(from_below)
    return list(crossing)


def _output(operation: Any, node: int, tensor: int) -> Any:
    if node != 0:
        raise CutError(
            f"layer {operation.name}, whose output crosses the cut, is used several times",
            do="unfreeze from another layer",
        )
    output = operation.output
    return output[tensor] if isinstance(output, list | tuple) else output


def _as_float32(tensor: Any, name: str) -> Any:
    if keras.backend.standardize_dtype(tensor.dtype) == "float32":
        return tensor
    return keras.layers.Identity(dtype="float32", name=f"{name}_float32")(tensor)


def _shape(tensor: Any, name: str) -> tuple[int, ...]:
    shape = tuple(tensor.shape[1:])
    if None in shape:
        raise CutError(f"the output of layer {name} has no fixed size", expected="a fixed shape", found=shape)
    return shape
