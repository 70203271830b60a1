"""A model and a cut give a trunk: the frozen part, from pixels to features, and what decides its features."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from permafrost.bases import Base, load_model_file
from permafrost.errors import CutError, OptionError, StoreError, WeightsError, nearest
from permafrost.files import replacing
from permafrost.preprocessing import preprocess
from permafrost.trunk_spec import TrunkSpec, canonical_json

if TYPE_CHECKING:
    import keras
    import numpy as np

    from permafrost.store import Store

POOLINGS: Final = ("none", "avg", "max")
PRECISIONS: Final = ("float32", "bfloat16")
DTYPES: Final = ("float32", "float16")
TRUNK_FILE: Final = "trunk.keras"

_SETTINGS_WITHOUT_EFFECT: Final = frozenset(
    ["name", "trainable", "dtype", "batch_shape", "seed", "momentum", "synchronized", "build_config"]
)
"""Settings of layers that change no feature of a frozen trunk, or that are held elsewhere: a dtype by its policy."""


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A frozen trunk and the record of what decides its features.

    Attributes:
        model: from (n, h, w, 3) float32, 0 to 255, to the features (n, *shape) float32.
        spec: what decides them.
        base_layers: names of all layers of the base, in their order; indices given by users count in it.
    """

    model: keras.Model
    spec: TrunkSpec
    base_layers: tuple[str, ...]


def build_trunks(
    base: Base,
    cuts: Sequence[str | int | None] = (None,),
    *,
    pool: str = "none",
    precision: str = "float32",
    dtype: str = "float32",
) -> list[Trunk]:
    """Cut a base at one layer or several; the trunks share their layers.

    Args:
        base: from `bases.load_base`.
        cuts: for each trunk a layer's name or index; None for the last layer.
        pool: `avg` or `max` over height and width, or `none`.
        precision: what the base computes in: `float32` or `bfloat16`.
        dtype: what features will be stored in: `float32` or `float16`.

    Raises:
        CutError: a layer that is not in the base, or gives no features.
        WeightsError: weights below a cut that are not finite.
        OptionError: an unknown pooling, precision or dtype.
    """
    import keras

    for option, value, known in (
        ("pool", pool, POOLINGS),
        ("precision", precision, PRECISIONS),
        ("dtype", dtype, DTYPES),
    ):
        if value not in known:
            raise OptionError(f"unknown {option}", expected=" or ".join(known), found=value)
    layers = [find_layer(base.model, cut) for cut in cuts]
    if len(set(layers)) < len(layers):
        raise CutError("the same layer is cut at twice", found=", ".join(layers))
    model = as_precision(base.model, precision)
    parts = [_part(base, model, layer) for layer in layers]
    pixels = keras.Input((*base.image_size, 3), name="pixels", dtype="float32")
    prepared = preprocess(pixels, base.preprocessing)
    inputs, tensors = parts[0].inputs[0], [part.outputs[0] for part in parts]
    try:
        # Called once for all cuts, so that the trunks share each tensor and not only the layers.
        features = keras.Model(inputs, tensors).call(prepared)
    except Exception as error:
        raise CutError(f"{base.name} takes no pictures of {base.image_size}: {error}") from error
    trunks = []
    for layer, tensor in zip(layers, features if isinstance(features, list) else [features], strict=True):
        trunk = keras.Model(pixels, _pooled(tensor, layer, pool, precision), name="trunk")
        trunk.trainable = False
        spec = _spec(base, trunk, layer, pool=pool, precision=precision, dtype=dtype)
        trunks.append(Trunk(trunk, spec, tuple(member.name for member in base.model.layers)))
    return trunks


def find_layer(model: keras.Model, cut: str | int | None) -> str:
    """The name of the layer that `cut` means: its name, its index (from the end if negative), or None for the last.

    Raises:
        CutError: there is none.
    """
    names = [layer.name for layer in model.layers]
    if cut is None:
        return str(names[-1])
    index = as_index(cut)
    if index is not None:
        if not -len(names) <= index < len(names):
            raise CutError(
                f"{model.name} has no layer {index}", expected=f"{-len(names)} to {len(names) - 1}", found=index
            )
        return str(names[index])
    if cut not in names:
        raise CutError(f"{model.name} has no layer {cut}", do=f"try {nearest(str(cut), names)}")
    return str(cut)


def as_index(layer: str | int) -> int | None:
    """The index that a user means by `layer`, negative from the end; None where it is a name."""
    return int(layer) if isinstance(layer, int) or re.fullmatch(r"-?[0-9]+", layer) else None


def merge_trunks(trunks: Sequence[Trunk]) -> keras.Model:
    """One model with the features of all `trunks`, which `build_trunks` made together: one pass computes all."""
    import keras

    if len(trunks) == 1:
        return trunks[0].model
    return keras.Model(trunks[0].model.inputs[0], [output for trunk in trunks for output in trunk.model.outputs])


def save_trunk(trunk: Trunk, folder: str | os.PathLike[str]) -> None:
    """Keep the trunk beside its features, so that heads on them can be exported without the base's weights at hand.

    Raises:
        WriteError: it cannot be written.
    """
    path = Path(folder) / TRUNK_FILE
    if not path.exists():
        with replacing(path) as temporary:
            trunk.model.save(temporary)


def load_trunk(store: Store) -> Trunk:
    """The trunk that `save_trunk` kept in a store, checked against what decides its features.

    Raises:
        StoreError: it is missing or damaged, or gives other features than the store says.
    """
    path, spec = store.folder / TRUNK_FILE, store.spec
    if not path.is_file():
        raise StoreError(f"no trunk at {path}", do="run the same extract again: it is written anew")
    model = load_model_file(path)
    for field, found in (("architecture", architecture_digest(model)), ("weights", weights_digest(model))):
        if found != getattr(spec, field):
            raise StoreError(
                f"{path} is not the trunk of these features: {field}",
                expected=getattr(spec, field),
                found=found,
                do="remove it and run the same extract again",
            )
    return Trunk(model, spec, tuple(store.about["base_layers"]))


def architecture_digest(model: keras.Model) -> str:
    """SHA-256, 64 hex digits, of a model's graph from its outputs down: layers, settings, connections, no names."""
    return hashlib.sha256(canonical_json(_signature(model))).hexdigest()


def weights_digest(model: keras.Model) -> str:
    """SHA-256, 64 hex digits, of a model's weights, in an order that follows from its graph alone."""
    import numpy as np

    hasher = hashlib.sha256()
    for layer in _graph_order(model):
        for variable in layer.weights:
            array = np.ascontiguousarray(as_array(variable))
            hasher.update(f"{array.dtype.str} {array.shape}\n".encode("ascii"))
            hasher.update(array.data)
    return hasher.hexdigest()


def as_array(variable: Any) -> np.ndarray:
    """A Keras variable's value, (*shape) in its own dtype."""
    import keras

    value: np.ndarray = keras.ops.convert_to_numpy(variable)
    return value


def require_finite(model: keras.Model, source: str) -> None:
    """Refuse a model with NaN or infinity among its weights.

    Raises:
        WeightsError: it has; the first layer that does is named.
    """
    import numpy as np

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


def _part(base: Base, model: keras.Model, layer: str) -> keras.Model:
    """The part of a base up to `layer`, its weights checked."""
    import keras

    member = model.get_layer(layer)
    if isinstance(member, keras.Model):
        raise CutError(
            f"layer {layer} is a model of its own",
            expected="a layer",
            do="cut at the layer after it, or save it to a file of its own and give that as the base",
        )
    output = member.output
    if not isinstance(output, keras.KerasTensor):
        raise CutError(f"layer {layer} gives {len(output)} tensors", expected="one")
    part = keras.Model(model.inputs[0], output)
    require_finite(part, base.weights_source)
    return part


def _spec(base: Base, trunk: keras.Model, layer: str, *, pool: str, precision: str, dtype: str) -> TrunkSpec:
    return TrunkSpec(
        architecture=architecture_digest(trunk),
        weights=weights_digest(trunk),
        preprocessing=base.preprocessing,
        image_size=base.image_size,
        pooling=pool,
        precision=precision,
        dtype=dtype,
        base=base.name,
        weights_source=base.weights_source,
        cut=layer,
        shapes=(_shape(trunk, layer),),
    )


def _pooled(features: Any, layer: str, pool: str, precision: str) -> Any:
    import keras

    if precision != "float32":
        features = keras.layers.Identity(dtype="float32", name=f"{layer}_float32")(features)
    if pool == "none":
        return features
    if len(features.shape) != 4:
        raise CutError(
            f"layer {layer} has no height and width to pool over",
            expected="shape (h, w, channels)",
            found=f"shape {tuple(features.shape[1:])}",
            do="leave --pool out",
        )
    pooling = keras.layers.GlobalAveragePooling2D if pool == "avg" else keras.layers.GlobalMaxPooling2D
    return pooling(dtype="float32", name=f"{layer}_pooling")(features)


def _shape(trunk: keras.Model, layer: str) -> tuple[int, ...]:
    shape = tuple(trunk.outputs[0].shape[1:])
    if None in shape or 0 in shape:
        raise CutError(f"layer {layer} gives features of no fixed size", expected="a fixed shape", found=shape)
    return shape


def as_precision(model: keras.Model, precision: str, *, but: Sequence[str] = ()) -> keras.Model:
    """A copy of a model that computes in `precision`, all but the layers named; its weights stay float32."""
    import keras

    if precision == "float32":
        return model

    def convert(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer) or layer.name in but:
            return layer if not isinstance(layer, keras.layers.Layer) else type(layer).from_config(layer.get_config())
        config = layer.get_config()
        return type(layer).from_config({**config, "dtype": f"mixed_{precision}"})

    converted = keras.models.clone_model(model, clone_function=convert, recursive=True)
    converted.set_weights(model.get_weights())
    return converted


def _signature(model: keras.Model) -> list[Any]:
    """A model's graph as JSON: operations in the order in which a walk down from the outputs first meets them."""
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
            # Keras adds these where a model is called on a tensor of another; they change nothing.
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
    """The layers below a model's outputs, in an order that follows from the graph, nested models taken apart."""
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
    """The nodes of a functional model's config below its outputs, each after those that it depends on."""
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
    """Output tensors of a config, which Keras writes as one `[layer, node, tensor]` or as a list of them."""
    if entries and isinstance(entries[0], str):
        entries = [entries]
    return [(str(name), int(node), int(tensor)) for name, node, tensor in entries]


def histories(value: Any) -> list[tuple[str, int, int]]:
    """All `[layer, node, tensor]` to which the arguments of a node refer, in order."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            return tensors_of(value["config"]["keras_history"])
        return [found for key in sorted(value) for found in histories(value[key])]
    if isinstance(value, list | tuple):
        return [found for item in value for found in histories(item)]
    return []


def _arguments(value: Any, numbers: dict[tuple[str, int], int]) -> Any:
    """The arguments of a node as JSON, with references to tensors by the numbers of the nodes that made them."""
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
    """The settings of a layer that change its output, without those at their default.

    A setting that a later Keras adds, at its default, changes no digest.
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
    """`value` as JSON.

    Raises:
        TypeError: it has no JSON form; what cannot be hashed is not guessed at.
    """
    import numpy as np

    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if key != "registered_name"}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")
