"""Run an exported model, or any Keras image classifier, on images of any size."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias

import keras
import numpy as np

from permafrost.engines.keras_engine import KerasEngine, batch_size_for
from permafrost.errors import ImageError, RunError
from permafrost.extraction.originals import max_pixels_of
from permafrost.extraction.reader import DECODING_BYTES
from permafrost.images.decoding import DecodingMemory
from permafrost.images.options import MAX_PIXELS
from permafrost.images.resizing import resize
from permafrost.images.sources import ImageSource
from permafrost.machine import cpu_count
from permafrost.model.labels import LABELS_FILE, read_labels
from permafrost.model.run import Run, file_digest, open_run
from permafrost.threads import in_order
from permafrost.trunk.bases import load_model_file

BATCH_SIZE: Final = 32

ModelLike: TypeAlias = Run | keras.Model | str | os.PathLike[str]
"""A run, its folder, a `.keras` file, or a Keras model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model that is ready to use.

    Attributes:
        network: from images to probabilities.
        class_names: the classes, in the order of the probabilities; empty if they are unknown.
        max_pixels: an image with more pixels is refused before it is decoded.
        name: the path of the run or the file, for display.
        run: the run that the model belongs to; None for another model.
    """

    network: keras.Model
    class_names: tuple[str, ...]
    max_pixels: int = MAX_PIXELS
    name: str
    run: Run | None = None

    def with_classes(self, default: Sequence[str]) -> OpenModel:
        """Return the model, with `default` as its class names if they are unknown.

        Raises:
            RunError: the model has a different number of outputs than there are names.
        """
        names = self.class_names or tuple(default)
        count = self.network.outputs[0].shape[-1]
        if count != len(names):
            raise RunError("the model has a different number of classes", expected=len(names), found=count)
        return dataclasses.replace(self, class_names=names)


def open_model(model: ModelLike) -> OpenModel:
    """Open a run or a model file. Images may be as large as the run's extraction allowed.

    A model file beside the files of the run that wrote it is opened as that run.

    Raises:
        RunError: `model` is neither a run nor a model file.
    """
    if isinstance(model, Run):
        return _open(model, str(model.folder))
    if isinstance(model, str | os.PathLike) and os.path.isdir(model):
        return _open(open_run(model), os.fspath(model))
    if not isinstance(model, str | os.PathLike):
        return OpenModel(network=model, class_names=(), name="a model in memory")
    path = Path(model)
    if not path.is_file() or path.suffix != ".keras":
        raise RunError(f"no run or model at {path}", expected="a run's folder or a .keras file")
    if run := _run_of(path):
        return _open(run, str(path))
    labels = path.with_name(LABELS_FILE)
    names = read_labels(labels) if labels.is_file() else ()
    return OpenModel(network=load_model_file(path), class_names=names, name=str(path))


def _open(run: Run, name: str) -> OpenModel:
    limit = max_pixels_of(run.about.get("libraries", {}))
    return OpenModel(network=run.model, class_names=run.class_names, max_pixels=limit, name=name, run=run)


def _run_of(path: Path) -> Run | None:
    """Return the run that wrote a model file, from the folder of the file; None if it is not there."""
    try:
        run = open_run(path.parent)
    except RunError:
        return None
    return run if file_digest(path) == run.about.get("model_sha256") else None


def probabilities(model: keras.Model, images: Iterable[np.ndarray], *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Compute a model's outputs in batches.

    Args:
        model: from images to probabilities.
        images: (h, w, 3), 0 to 255, all of one size, as resized by `resizer(model)`. One batch is held at a time.
        batch_size: images per batch; a few images are computed as a smaller batch.

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
        engine = engine or KerasEngine(model, batch_size=batch_size_for(len(batch), batch_size))
        results.append(engine(np.stack(batch))[0])
    return np.concatenate(results)


def classify(images: Sequence[ImageSource], model: OpenModel) -> list[np.ndarray | ImageError]:
    """Read images and run a model on them.

    Returns:
        For each image, its probabilities (classes,) float32; an `ImageError` if it cannot be read or decoded.
    """
    errors: dict[int, ImageError] = {}

    def resized() -> Iterator[np.ndarray]:
        for index, found in enumerate(read_images(images, model)):
            if isinstance(found, ImageError):
                errors[index] = found
            else:
                yield found

    outputs = iter(probabilities(model.network, resized()))
    return [errors[index] if index in errors else next(outputs) for index in range(len(images))]


def resizer(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that resizes an image as `model` does.

    Images of different sizes cannot share a batch, and a deep network is slow on one image at a time. So the model's
    resizing layer runs on each image alone, and the whole model on batches of the resized images, which its resizing
    layer leaves unchanged.

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


def read_images(images: Sequence[ImageSource], model: OpenModel) -> Iterator[np.ndarray | ImageError]:
    """Read, decode and resize images in threads, a bounded number ahead, and yield the results in order.

    Images at full size are held only until they are resized; together they take at most `DECODING_BYTES`, or the size
    of one image if that is larger.

    Args:
        images: the images.
        model: the model that they are read for.

    Yields:
        The resized image; an `ImageError` if it cannot be read or decoded.
    """
    prepare = resizer(model.network)
    memory = DecodingMemory(DECODING_BYTES)

    def read(image: ImageSource) -> np.ndarray | ImageError:
        try:
            with image.load(model.max_pixels).decoded(memory) as pixels:
                return prepare(pixels)
        except ImageError as error:
            return error

    workers = cpu_count()
    with ThreadPoolExecutor(workers, "images") as threads:
        yield from in_order((threads.submit(read, image) for image in images), ahead=BATCH_SIZE + workers)
