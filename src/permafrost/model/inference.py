"""Run an exported model, or any Keras image classifier, on images of any size."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias

import keras
import numpy as np

from permafrost.engines.keras_engine import KerasEngine
from permafrost.errors import ImageError, RunError
from permafrost.extraction.reader import DECODING_BYTES
from permafrost.images.decoding import DecodingMemory
from permafrost.images.resizing import resize
from permafrost.images.sources import ImageSource
from permafrost.machine import cpu_count
from permafrost.model.run import LABELS_FILE, Run, open_run
from permafrost.trunk.bases import load_model_file

BATCH_SIZE: Final = 32

ModelLike: TypeAlias = Run | keras.Model | str | os.PathLike[str]
"""A run, its folder, a `.keras` file, or a Keras model."""

Wanted = Callable[[int, bytes], bool]
"""Given an image's position and content digest, whether to decode it."""


def open_model(model: ModelLike) -> tuple[keras.Model, tuple[str, ...]]:
    """Return a Keras model and its class names; the names are empty if they are unknown.

    Raises:
        RunError: `model` is neither a run nor a model file.
    """
    if not isinstance(model, str | os.PathLike | Run):
        return model, ()
    if isinstance(model, Run) or os.path.isdir(model):
        run = model if isinstance(model, Run) else open_run(model)
        return run.model, run.class_names
    path = Path(model)
    if not path.is_file() or path.suffix != ".keras":
        raise RunError(f"no run and no model at {path}", expected="a run's folder or a .keras file")
    labels = path.with_name(LABELS_FILE)
    names = tuple(labels.read_text("utf-8").splitlines()) if labels.is_file() else ()
    return load_model_file(path), names


def require_outputs(model: keras.Model, class_names: Sequence[str]) -> None:
    """Check that a model has one output per class.

    Raises:
        RunError: the numbers differ.
    """
    count = model.outputs[0].shape[-1]
    if count != len(class_names):
        raise RunError("the model has another number of classes", expected=len(class_names), found=count)


def probabilities(model: keras.Model, images: Iterable[np.ndarray], *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Compute a model's outputs in batches.

    Args:
        model: from images to probabilities.
        images: (h, w, 3), 0 to 255, all of one size: what `resizer(model)` returns. Up to `batch_size` are held.
        batch_size: images per batch; fewer images are computed as one batch of their number.

    Returns:
        (n, classes) float32.

    Raises:
        ImageError: images of different sizes.
    """
    results = [np.empty((0, model.outputs[0].shape[-1]), np.float32)]
    remaining = iter(images)
    engine: KerasEngine | None = None
    while batch := [pixels.astype(np.float32, copy=False) for pixels in itertools.islice(remaining, batch_size)]:
        if len({pixels.shape for pixels in batch}) > 1:
            raise ImageError("images of different sizes", expected="a model that resizes them")
        # The engine fills up batches to its size: a single image must not compute a whole batch.
        engine = engine or KerasEngine(model, batch_size=len(batch))
        results.append(engine(np.stack(batch))[0])
    return np.concatenate(results)


def resizer(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that resizes an image as `model` does.

    Images of different sizes cannot share a batch, and a deep network is slow on one image at a time. So the model's
    resizing layer runs on each image alone, and the whole model on batches of the results, which it leaves unchanged.

    Returns:
        A function from (h, w, 3), 0 to 255, to (height, width, 3) float32.
    """
    height, width = model.inputs[0].shape[1:3]
    if height is not None and width is not None:
        return lambda pixels: resize(pixels, (height, width)).astype(np.float32)
    for layer in model.layers[:3]:
        if isinstance(layer, keras.layers.Resizing):
            return _layer_resizer(layer)
    # The model does not say which size it was trained at.
    return lambda pixels: pixels.astype(np.float32)


def _layer_resizer(layer: Any) -> Callable[[np.ndarray], np.ndarray]:
    def run(pixels: np.ndarray) -> np.ndarray:
        resized: np.ndarray = keras.ops.convert_to_numpy(layer(pixels[None].astype(np.float32)))[0]
        return resized

    return run


def read_images(
    images: Sequence[ImageSource], prepare: Callable[[np.ndarray], np.ndarray], wanted: Wanted = lambda *_: True
) -> Iterator[np.ndarray | ImageError | None]:
    """Read, decode and prepare images in threads, a bounded number ahead, and yield the results in order.

    Args:
        images: the images.
        prepare: what `resizer` returns. Images at full size are held only until they are prepared, and together take
            at most `DECODING_BYTES` (or one image, if it is larger).
        wanted: whether to decode an image.

    Yields:
        The prepared image; None if it is not wanted; or an `ImageError` if it cannot be read or decoded.
    """
    memory = DecodingMemory(DECODING_BYTES)

    def read(index: int) -> np.ndarray | ImageError | None:
        try:
            loaded = images[index].load()
            if not wanted(index, loaded.digest):
                return None
            with loaded.decoded(memory) as pixels:
                return prepare(pixels)
        except ImageError as error:
            return error

    workers = cpu_count()
    with ThreadPoolExecutor(workers, "images") as threads:
        running: collections.deque[Future[np.ndarray | ImageError | None]] = collections.deque()
        try:
            for index in range(len(images)):
                running.append(threads.submit(read, index))
                if len(running) >= BATCH_SIZE + workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
