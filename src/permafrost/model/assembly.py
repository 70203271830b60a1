"""One Keras model from images to probabilities, and the check that it agrees with what it was made of."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np

from permafrost.atomic import replacing
from permafrost.engines.keras_engine import KerasEngine
from permafrost.errors import ImageError, RunError
from permafrost.images.resizing import resize

if TYPE_CHECKING:
    from permafrost.trunk.cutting import Trunk


RESIZING_LAYER: Final = "resizing"


_LENDING: Final = threading.RLock()
"""Held while layers are lent: Keras notes on them, by position, in which graphs they are."""


def assemble(trunk: Trunk, head: keras.Model) -> keras.Model:
    """Join resizing, preprocessing, trunk and head.

    Every layer of the base is a layer of the model, by its own name; there is no Lambda layer and none of this
    package's.

    Args:
        trunk: from pixels to features.
        head: from features to probabilities.

    Returns:
        From (n, height, width, 3), any height and width, 0 to 255, to (n, classes) float32. An image of the trunk's
        size passes its resizing untouched.
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
    # Rounded, as the extraction's resize gives whole numbers.
    pixels = keras.ops.round(resizing(images))
    features = trunk.model.call(pixels)
    for layer in head.layers:
        layer.name = _free_name(layer.name, trunk.model)
    return keras.Model(images, head.call(features), name="permafrost")


@contextlib.contextmanager
def lent(model: keras.Model) -> Iterator[None]:
    """Within, layers of `model` may be in other models too; afterwards they have forgotten those.

    Keras has every layer remember each graph that it is in, with all that comes after it: heads of a session's earlier
    experiments would stay in memory as long as the trunk. One thread at a time has the layers.
    """
    with _LENDING:
        nodes = [each for layer in model.operations for each in (layer._inbound_nodes, layer._outbound_nodes)]
        counts = [len(each) for each in nodes]
        try:
            yield
        finally:
            for each, count in zip(nodes, counts, strict=True):
                del each[count:]


def export_model(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Save `model` beside `path`, then rename: the file is the old model or the new one, always whole.

    Raises:
        WriteError: it cannot be written.
    """
    with replacing(Path(path)) as temporary:
        model.save(temporary)


def probabilities(model: keras.Model, images: Iterable[np.ndarray], *, batch_size: int = 32) -> np.ndarray:
    """What a model gives for images of any sizes, each resized by the model's own layer.

    Images of different sizes cannot share a batch, and a network of many layers is slow one by one: so the model's
    resizing alone runs on each image, and the whole model on batches of what it gives, which it leaves as it is.

    Args:
        model: from images of any size to probabilities; or of a fixed size, to which images are resized here.
        images: each (h, w, 3), 0 to 255; never more than a batch of them is held.
        batch_size: images a batch.

    Returns:
        (n, classes) float32.
    """
    prepare = resizer(model)
    return computed(model, (prepare(pixels) for pixels in images), batch_size=batch_size)


def computed(model: keras.Model, images: Iterable[np.ndarray], *, batch_size: int = 32) -> np.ndarray:
    """What a model gives, as `probabilities`, for images that are of its size already."""
    engine = KerasEngine(model, batch_size=batch_size)
    chunks = [np.empty((0, model.outputs[0].shape[-1]), np.float32)]
    remaining = iter(images)
    while batch := [pixels.astype(np.float32, copy=False) for pixels in itertools.islice(remaining, batch_size)]:
        if len({pixels.shape for pixels in batch}) > 1:
            raise ImageError("images of different sizes", expected="a model that resizes them")
        chunks.append(engine(np.stack(batch))[0])
    return np.concatenate(chunks)


def body_of(model: keras.Model) -> keras.Model:
    """An exported model without its resizing: from (n, h, w, 3) of the trunk's size to probabilities.

    Raises:
        RunError: the model has no resizing that `assemble` put there.
    """
    return keras.Model(pixels_of(model), model.outputs[0], name="body")


def pixels_of(model: keras.Model) -> Any:
    """The tensor in an exported model that holds images of the trunk's size, (n, h, w, 3) from 0 to 255.

    Raises:
        RunError: the model has no resizing that `assemble` put there.
    """
    for operation in model.operations[:4]:
        if type(operation).__name__ == "Round":
            return operation.output
    raise RunError(f"{model.name} was not exported by permafrost", expected="a model that resizes its images")


def resizer(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """What brings an image (h, w, 3) to the one size at which `model` works on it.

    Returns:
        A function from (h, w, 3), 0 to 255, to (height, width, 3) float32.
    """
    height, width = model.inputs[0].shape[1:3]
    if height is not None and width is not None:
        return lambda pixels: resize(pixels, (height, width)).astype(np.float32)
    for layer in model.layers[:3]:
        if isinstance(layer, keras.layers.Resizing):
            return _layer_resizer(layer)
    # Nothing says at which size it was trained: images go in as they are.
    return lambda pixels: pixels.astype(np.float32)


def _layer_resizer(layer: Any) -> Callable[[np.ndarray], np.ndarray]:
    def run(pixels: np.ndarray) -> np.ndarray:
        resized: np.ndarray = keras.ops.convert_to_numpy(layer(pixels[None].astype(np.float32)))[0]
        return resized

    return run


def _free_name(name: str, model: keras.Model) -> str:
    """`name`, or with a number where the model has it: a trunk may itself be an exported model."""
    taken = {operation.name for operation in model.operations}
    number = 1
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _reserve_names(model: keras.Model) -> None:
    """Have Keras count on from the numbers in `model`'s names, so that names that it makes up are free."""
    for operation in model.operations:
        match = re.fullmatch(r"(.+?)(?:_(\d+))?", operation.name)
        assert match is not None
        while keras.backend.get_uid(match[1]) <= int(match[2] or 0):
            pass
