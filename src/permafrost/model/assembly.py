"""Join a trunk and a head into one Keras model, from images to probabilities."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import keras

from permafrost.atomic import replacing
from permafrost.errors import RunError

if TYPE_CHECKING:
    from permafrost.trunk.cutting import Trunk

RESIZING_LAYER: Final = "resizing"

GRAPH_RECORDS: Final = ("_inbound_nodes", "_outbound_nodes")
"""The lists in which each Keras layer records the graphs that it is part of. There is no public access to them."""

_SHARING: Final = threading.RLock()
"""Held while layers are shared: records are removed by position, so only one thread at a time may add any."""


def assemble(trunk: Trunk, head: keras.Model) -> keras.Model:
    """Join resizing, preprocessing, trunk and head into one model.

    Every layer of the base becomes a layer of the model and keeps its name. All layers are Keras' own, and none is a
    Lambda layer. The model resizes images to the trunk's size; images of that size are unchanged.

    Args:
        trunk: from pixels to features.
        head: from features to probabilities.

    Returns:
        A model from (n, height, width, 3), any height and width, 0 to 255, to (n, classes) float32.
    """
    height, width = trunk.spec.image_size
    _reserve_names(trunk.model)
    images = keras.Input((None, None, 3), name=_free_name("images", trunk.model), dtype="float32")
    resizing = keras.layers.Resizing(
        height,
        width,
        interpolation="bilinear",
        antialias=True,
        dtype="float32",
        name=_free_name(RESIZING_LAYER, trunk.model),
    )
    # Extraction rounds resized pixels to whole levels.
    pixels = keras.ops.round(resizing(images))
    features = trunk.model.call(pixels)
    for layer in head.layers:
        layer.name = _free_name(layer.name, trunk.model)
    return keras.Model(images, head.call(features), name="permafrost")


@contextlib.contextmanager
def shared_layers(model: keras.Model) -> Iterator[None]:
    """Share the layers of `model` with other models within the block, and let those models be freed after it.

    Keras records every graph that a layer joins, and a record refers to all layers of the graph: heads of earlier
    experiments would stay in memory as long as the trunk. The records made within the block are removed at its end.
    If Keras has its records elsewhere, nothing is removed. Only one thread at a time can be in such a block.
    """
    with _SHARING:
        records = [getattr(layer, name, None) for layer in model.operations for name in GRAPH_RECORDS]
        lists = [each for each in records if isinstance(each, list)]
        counts = [len(each) for each in lists]
        try:
            yield
        finally:
            if len(lists) == len(records):
                for each, count in zip(lists, counts, strict=True):
                    del each[count:]


def export_model(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Save a model to `path` atomically: the file always holds the whole old model or the whole new one.

    Raises:
        WriteError: the file cannot be written.
    """
    with replacing(Path(path)) as temporary:
        model.save(temporary)


def body_of(model: keras.Model) -> keras.Model:
    """Return an exported model without its resizing: from (n, h, w, 3) of the trunk's size to probabilities.

    Raises:
        RunError: the model was not made by `assemble`.
    """
    return keras.Model(pixels_of(model), model.outputs[0], name="body")


def pixels_of(model: keras.Model) -> Any:
    """Return the tensor of resized images in an exported model: (n, h, w, 3) of the trunk's size, 0 to 255.

    Raises:
        RunError: the model was not made by `assemble`.
    """
    rounding = _rounding(model)
    if rounding is not None:
        return rounding.output
    raise RunError(f"{model.name} was not exported by permafrost", expected="a model that resizes its images")


def is_assembled(model: keras.Model) -> bool:
    """Return whether `assemble` made a model: only such a model rounds the pixels that it resizes."""
    return _rounding(model) is not None


def _rounding(model: keras.Model) -> Any:
    return next((each for each in model.operations[:4] if type(each).__name__ == "Round"), None)


def _free_name(name: str, model: keras.Model) -> str:
    """Return `name`, with a number if `model` has it already: a trunk may itself be an exported model."""
    taken = {operation.name for operation in model.operations}
    number = 1
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _reserve_names(model: keras.Model) -> None:
    """Advance Keras' name counters beyond the numbers in `model`'s names, so that new default names are free."""
    for operation in model.operations:
        match = re.fullmatch(r"(.+?)(?:_(\d+))?", operation.name)
        assert match is not None
        while keras.backend.get_uid(match[1]) <= int(match[2] or 0):
            pass
