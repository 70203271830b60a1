"""Cut a base: build, save and load trunks, from pixels to features."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from permafrost.atomic import replacing
from permafrost.errors import BaseError, CutError, OptionError, StoreError, nearest
from permafrost.trunk.bases import Base, load_model_file
from permafrost.trunk.graph import architecture_digest, as_precision, leaves, require_finite, weights_digest
from permafrost.trunk.options import DTYPES, POOLINGS, PRECISIONS
from permafrost.trunk.preprocessing import preprocess
from permafrost.trunk.spec import TrunkSpec

if TYPE_CHECKING:
    import keras


TRUNK_FILE: Final = "trunk.keras"


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A frozen trunk.

    Attributes:
        model: from (n, h, w, 3) float32, 0 to 255, to features (n, *shape) float32.
        spec: everything that a feature value depends on.
        base_layers: the names of all layers of the base, in order; users' layer indices refer to this list.
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
    """Build a trunk per cut of a base; the trunks share their layers.

    Args:
        base: from `bases.load_base`.
        cuts: a layer's name or index per trunk; None for the last layer.
        pool: `avg` or `max` over height and width, or `none`.
        precision: the precision in which the base computes: `float32` or `bfloat16`.
        dtype: the dtype in which features will be stored: `float32` or `float16`.

    Raises:
        CutError: a layer is not in the base, or cannot be cut at.
        WeightsError: weights below a cut are not finite.
        OptionError: an unknown pooling, precision or dtype.
    """
    import keras

    _require_known(pool=(pool, POOLINGS), precision=(precision, PRECISIONS), dtype=(dtype, DTYPES))
    layers = [find_layer(base.model, cut) for cut in cuts]
    if len(set(layers)) < len(layers):
        raise CutError("the same layer is given twice", found=", ".join(layers))
    pixels = keras.Input((*base.image_size, 3), name="pixels", dtype="float32")
    trunks = []
    for layer, tensor in zip(layers, _features(base, layers, pixels, precision), strict=True):
        trunk = keras.Model(pixels, _pooled(tensor, layer, pool, precision), name="trunk")
        trunk.trainable = False
        spec = _spec(base, trunk, layer, pool=pool, precision=precision, dtype=dtype)
        trunks.append(Trunk(trunk, spec, tuple(member.name for member in base.model.layers)))
    return trunks


def _require_known(**options: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, known) in options.items():
        if value not in known:
            raise OptionError(f"unknown {name}", expected=" or ".join(known), found=value)


def _features(base: Base, layers: Sequence[str], pixels: Any, precision: str) -> list[Any]:
    """Return the outputs of several layers of a base, given a tensor of pixels."""
    import keras

    model = as_precision(base.model, precision)
    # One model for all cuts, so that the trunks share every tensor, not only the layers.
    below = keras.Model(model.inputs[0], [_output(model, layer) for layer in layers])
    require_finite(below, base.weights_source)
    prepared = preprocess(pixels, base.preprocessing)
    try:
        features = below.call(prepared)
    except Exception as error:
        raise CutError(f"{base.name} cannot take images of {base.image_size}: {error}") from error
    return list(keras.tree.flatten(features))


def find_layer(model: keras.Model, cut: str | int | None) -> str:
    """Return the name of the layer that a user means by `cut`.

    Args:
        model: the base.
        cut: a name, an index (from the end if negative), or None for the last layer.

    Raises:
        CutError: there is no such layer.
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
        for member in model.layers:
            if any(leaf.name == cut for leaf in leaves(member)):
                raise _nested(f"layer {cut} is within the nested model {member.name}")
        raise CutError(f"{model.name} has no layer {cut}", do=f"try {nearest(str(cut), names)}")
    return str(cut)


def as_index(layer: str | int) -> int | None:
    """Return the index that a user means by `layer`, negative from the end; None if it is a name.

    Raises:
        CutError: it is neither.
    """
    if not isinstance(layer, str | int) or isinstance(layer, bool):
        raise CutError("not a layer", expected="a name or an index", found=repr(layer))
    return int(layer) if isinstance(layer, int) or re.fullmatch(r"-?[0-9]+", layer) else None


def merge_trunks(trunks: Sequence[Trunk]) -> keras.Model:
    """Merge the trunks from one call of `build_trunks` into a model that computes all their features in one pass."""
    import keras

    if len(trunks) == 1:
        return trunks[0].model
    return keras.Model(trunks[0].model.inputs[0], [output for trunk in trunks for output in trunk.model.outputs])


def save_trunk(trunk: Trunk, folder: str | os.PathLike[str]) -> None:
    """Save a trunk beside its features, so that heads can be exported without the base's weights.

    An existing file is left alone.

    Raises:
        WriteError: the file cannot be written.
    """
    path = Path(folder) / TRUNK_FILE
    if not path.exists():
        with replacing(path) as temporary:
            trunk.model.save(temporary)


def load_trunk(path: Path, spec: TrunkSpec, base_layers: Sequence[str]) -> Trunk:
    """Load a trunk that `save_trunk` wrote, and check it against its spec.

    Args:
        path: the trunk's file.
        spec: everything that its features depend on.
        base_layers: names of all layers of the base, in their order.

    Raises:
        StoreError: the file is missing or damaged, or is not the trunk that `spec` describes.
    """
    if not path.is_file():
        raise StoreError(f"no trunk at {path}", do="run the same extract again to save it")
    try:
        model = load_model_file(path)
    except BaseError as error:
        raise StoreError(f"damaged trunk: {error.what}", do="remove it and run the same extract again") from error
    for field, found in (("architecture", architecture_digest(model)), ("weights", weights_digest(model))):
        if found != getattr(spec, field):
            raise StoreError(
                f"{path} is not the trunk of these features: {field}",
                expected=getattr(spec, field),
                found=found,
                do="remove it and run the same extract again",
            )
    return Trunk(model, spec, tuple(base_layers))


def _output(model: keras.Model, layer: str) -> Any:
    """Return the output tensor of a layer; check that it is one that a base can be cut at."""
    import keras

    member = model.get_layer(layer)
    if isinstance(member, keras.Model):
        raise _nested(f"layer {layer} is a nested model")
    output = member.output
    if not isinstance(output, keras.KerasTensor):
        raise CutError(f"layer {layer} has {len(output)} output tensors", expected="one")
    return output


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


def _nested(what: str) -> CutError:
    do = "cut at the layer after it, or save the nested model to its own file and give that as the base"
    return CutError(what, expected="a layer", do=do)


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
        raise CutError(f"the features of layer {layer} have no fixed size", expected="a fixed shape", found=shape)
    return shape
