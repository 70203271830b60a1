"""The graph of a Keras model: its digests, the order of its layers, copies in another precision."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from permafrost.errors import BaseError, WeightsError
from permafrost.trunk.spec import canonical_json

if TYPE_CHECKING:
    import keras

_SETTINGS_WITHOUT_EFFECT: Final = frozenset(
    ["name", "trainable", "dtype", "batch_shape", "seed", "momentum", "synchronized", "build_config"]
)
"""Settings that do not change the features of a frozen trunk, or that are covered elsewhere: a dtype by its policy."""


def architecture_digest(model: keras.Model) -> str:
    """Return the SHA-256 of a model's graph, 64 hex digits: layers, settings and connections, without names."""
    return hashlib.sha256(canonical_json(_signature(model))).hexdigest()


def weights_digest(model: keras.Model) -> str:
    """Return the SHA-256 of a model's weights, 64 hex digits, in an order that depends on its graph alone."""
    hasher = hashlib.sha256()
    for layer in _graph_order(model):
        for variable in layer.weights:
            array = np.ascontiguousarray(as_array(variable))
            hasher.update(f"{array.dtype.str} {array.shape}\n".encode("ascii"))
            hasher.update(array.data)
    return hasher.hexdigest()


def as_array(variable: Any) -> np.ndarray:
    """Return the value of a Keras variable, (*shape) in its own dtype."""
    import keras

    value: np.ndarray = keras.ops.convert_to_numpy(variable)
    return value


def leaves(layer: Any) -> Iterator[Any]:
    """Yield the layers of a model, and those of nested models in their place; yield any other layer itself."""
    if not hasattr(layer, "layers"):
        yield layer
        return
    for member in layer.layers:
        yield from leaves(member)


def first_operations(model: Any) -> Iterator[Any]:
    """Yield the operations of a model up to its first weights, those of nested models in their place."""
    for operation in getattr(model, "operations", None) or model.layers:
        if hasattr(operation, "layers"):
            yield from first_operations(operation)
        else:
            yield operation
        if getattr(operation, "weights", ()):
            return


def require_finite(model: keras.Model, source: str) -> None:
    """Check that all weights of a model are finite.

    Args:
        model: the model.
        source: the origin of its weights, for the error.

    Raises:
        WeightsError: a layer has NaN or infinity among its weights; the first such layer is named.
    """
    for layer in _graph_order(model):
        for variable in layer.weights:
            wrong = int(np.count_nonzero(~np.isfinite(as_array(variable))))
            if wrong:
                raise WeightsError(
                    f"weights of layer {layer.name} from {source} are not finite",
                    expected="numbers",
                    found=f"{wrong} NaN or infinite of {int(np.prod(variable.shape))} in {variable.name}",
                    do="cut below this layer, or give other weights",
                )


def as_precision(model: keras.Model, precision: str, *, but: Sequence[str] = ()) -> keras.Model:
    """Return a copy of a model that computes in `precision`; its weights are float32.

    Args:
        model: the model; it is returned itself if that is how it computes.
        precision: `float32`, `bfloat16` or `float16`.
        but: names of layers that keep their own precision.

    Raises:
        BaseError: the model is quantized.
    """
    policy = precision if precision == "float32" else f"mixed_{precision}"
    policies = {layer.name: layer.dtype_policy for layer in leaves(model) if layer.name not in but}
    quantized = next((name for name, own in policies.items() if own.quantization_mode), None)
    if quantized:
        raise BaseError(
            f"layer {quantized} of {model.name} is quantized",
            expected="weights in floating point",
            found=policies[quantized].name,
            do="give the model as it was before",
        )
    if {own.name for own in policies.values() if "float" in own.compute_dtype} <= {policy}:
        return model
    return copy_with_policy(model, policy, but=but)


def copy_with_policy(model: keras.Model, policy: str, *, but: Sequence[str] = (), pixels: Any = None) -> keras.Model:
    """Return a copy of a model with its weights, in which all layers have the dtype policy `policy`.

    Args:
        model: the model.
        policy: a dtype policy of Keras, e.g. `float32` or `mixed_bfloat16`.
        but: names of layers that keep their own policy.
        pixels: the tensor to build the copy on; a new input of the same shape if None.
    """
    import keras

    def convert(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer
        changes = {} if layer.name in but else {"dtype": policy}
        return type(layer).from_config({**layer.get_config(), **changes})

    copy = keras.models.clone_model(model, input_tensors=pixels, clone_function=convert, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _signature(model: keras.Model) -> list[Any]:
    """Return a model's graph as JSON, its operations in the order of `walk`."""
    import keras

    if isinstance(model, keras.Sequential):
        return ["Sequential", *(_operation_signature(layer) for layer in model.layers)]
    config = model.get_config()
    nodes = {entry["name"]: entry["inbound_nodes"] for entry in config["layers"]}
    operations = {operation.name: operation for operation in model.operations}
    numbers: dict[tuple[str, int], int] = {}
    signature: list[Any] = []
    for name, node in walk(config):
        inbound = nodes[name][node] if nodes[name] else {}
        if type(operations[name]).__name__ == "ConvertToTensor":
            # Keras adds these when a model is called on another model's tensor. They change nothing.
            ((below, number, tensor),) = histories(inbound)
            if tensor == 0:
                numbers[name, node] = numbers[below, number]
                continue
        arguments = _arguments(inbound, numbers)
        numbers[name, node] = len(signature)
        signature.append([_operation_signature(operations[name]), arguments])
    outputs = [numbers[name, node] for name, node, _ in tensors_of(config["output_layers"])]
    return ["Functional", signature, outputs]


def _graph_order(model: keras.Model) -> list[Any]:
    """Return the layers below a model's outputs in the order of `walk`; nested models are flattened."""
    import keras

    if isinstance(model, keras.Sequential):
        members = list(model.layers)
    else:
        operations = {operation.name: operation for operation in model.operations}
        members = [operations[name] for name in dict.fromkeys(name for name, _ in walk(model.get_config()))]
    order: list[Any] = []
    for member in members:
        if isinstance(member, keras.Model) and hasattr(member, "operations"):
            order += _graph_order(member)
        elif isinstance(member, keras.layers.Layer):
            order.append(member)
    return order


def walk(config: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the nodes (layer's name, index) below the outputs of a functional model's config, inputs first.

    The order is that of a depth-first walk from the outputs: it depends on the graph alone.
    """
    nodes = {entry["name"]: entry["inbound_nodes"] for entry in config["layers"]}
    done: dict[tuple[str, int], None] = {}
    stack = [(name, node) for name, node, _ in reversed(tensors_of(config["output_layers"]))]
    while stack:
        current = stack[-1]
        if current in done:
            stack.pop()
            continue
        name, node = current
        needed = histories(nodes[name][node]) if nodes[name] else []
        missing = [(below, number) for below, number, _ in needed if (below, number) not in done]
        if missing:
            stack += reversed(missing)
        else:
            done[current] = None
            stack.pop()
    return list(done)


def tensors_of(entries: Any) -> list[tuple[str, int, int]]:
    """Return the tensors in a config as a list: Keras writes one `[layer, node, tensor]` or several."""
    if entries and isinstance(entries[0], str):
        entries = [entries]
    return [(str(name), int(node), int(tensor)) for name, node, tensor in entries]


def histories(value: Any) -> list[tuple[str, int, int]]:
    """Return all `[layer, node, tensor]` that the arguments of a node refer to, in order."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            return tensors_of(value["config"]["keras_history"])
        return [found for key in sorted(value) for found in histories(value[key])]
    if isinstance(value, list | tuple):
        return [found for item in value for found in histories(item)]
    return []


def _arguments(value: Any, numbers: dict[tuple[str, int], int]) -> Any:
    """Return the arguments of a node as JSON; tensors are the numbers of their nodes."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            ((name, node, tensor),) = tensors_of(value["config"]["keras_history"])
            return ["tensor", numbers[name, node], tensor]
        return {key: _arguments(value[key], numbers) for key in value if key != "training"}
    if isinstance(value, list | tuple):
        return [_arguments(item, numbers) for item in value]
    return _plain(value)


def _operation_signature(operation: Any) -> Any:
    import keras

    if isinstance(operation, keras.Sequential) or (
        isinstance(operation, keras.Model) and hasattr(operation, "operations")
    ):
        return _signature(operation)
    return [type(operation).__name__, _settings(operation)]


def _settings(operation: Any) -> dict[str, Any]:
    """Return the settings of a layer that change its output and are not at their default.

    A setting that a later version of Keras adds thus changes no digest while it is at its default.
    """
    parameters = inspect.signature(type(operation).__init__).parameters
    settings = {}
    for key, value in operation.get_config().items():
        if key in _SETTINGS_WITHOUT_EFFECT or key.endswith(("_initializer", "_regularizer", "_constraint")):
            continue
        plain = _plain(value)
        default = parameters[key].default if key in parameters else inspect.Parameter.empty
        if default is inspect.Parameter.empty or plain != _plain_or_none(default):
            settings[key] = plain
    policy = getattr(operation, "dtype_policy", None)
    if policy is not None and policy.name != "float32":
        settings["dtype"] = policy.name
    return settings


def _plain_or_none(value: Any) -> Any:
    try:
        return _plain(value)
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    """Convert a value to JSON.

    Raises:
        TypeError: the value has no JSON form.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key != "registered_name"}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")
