"""Run an exported model, or any Keras image classifier, on images of any size."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias

import keras
import numpy as np

from permafrost.engines.keras_engine import KerasEngine, batch_size_for, compute_once
from permafrost.errors import ImageError, RunError
from permafrost.extraction.originals import max_pixels_of, pixels_of
from permafrost.extraction.reader import DECODING_BYTES
from permafrost.images.arrays.ranges import PixelRange
from permafrost.images.decoding import DecodingMemory
from permafrost.images.options import MAX_PIXELS
from permafrost.images.sources import ImageSource
from permafrost.machine import cpu_count
from permafrost.model.assembly import is_assembled
from permafrost.model.interface import Interface, inspect
from permafrost.model.labels import LABELS_FILE, read_labels
from permafrost.model.run import Run, file_digest, open_run
from permafrost.options import as_path
from permafrost.threads import in_order
from permafrost.trunk.bases import as_graph, load_model_file

BATCH_SIZE: Final = 32

BATCH_BYTES: Final = 256 * 2**20
"""The maximum memory of a batch of images of more than one."""

MAX_REASON: Final = 300
"""Characters of a backend's message that are shown."""

SAVED_MODEL: Final = "saved_model.pb"
"""The file that makes a folder a SavedModel."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model that is ready to use.

    Attributes:
        network: the model, with one input and one output.
        interface: the images that it takes and the numbers that it returns.
        class_names: the classes, in the order of the probabilities; empty if they are unknown.
        max_pixels: an image with more pixels is refused before it is decoded.
        pixels: what the values of arrays meant that the run was trained on; None for files or another model.
        run: the run that the model belongs to; None for another model.
    """

    network: keras.Model
    interface: Interface
    class_names: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    pixels: PixelRange | None = None
    run: Run | None = None

    @property
    def name(self) -> str:
        """The path of the run or the file, for display."""
        return self.interface.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing about the use of a model that no run wrote."""
        return self.interface.notes(self.class_names)

    def with_classes(self, default: Sequence[str]) -> OpenModel:
        """Return the model, with `default` as its class names if they are unknown.

        Raises:
            RunError: the model has a different number of outputs than there are names.
        """
        names, count = self.class_names or tuple(default), self.interface.class_count
        if count != len(names):
            raise RunError(
                "the model has a different number of classes",
                expected=len(names),
                found=count,
                do=f"name the model's classes in a file {LABELS_FILE} beside it, one per line",
            )
        return dataclasses.replace(self, class_names=names)


ModelLike: TypeAlias = OpenModel | Run | keras.Model | str | os.PathLike[str]
"""An open model, a run, its folder, a `.keras` file, or a Keras model."""


def open_model(model: ModelLike) -> OpenModel:
    """Open a run or a model file. Images may be as large as the run's extraction allowed.

    A model file beside the files of the run that wrote it is opened as that run.

    Raises:
        BaseError: the model cannot be opened, or has no graph of layers.
        OptionError: `model` is an empty path.
        RunError: `model` is neither a run nor a model, or the model does not classify images.
    """
    if isinstance(model, OpenModel):
        return model
    if isinstance(model, Run):
        return _open_run(model, str(model.folder))
    if isinstance(model, keras.Model):
        return _open(as_graph(model, "the model"), "a model in memory")
    if not isinstance(model, str | os.PathLike):
        raise RunError("not a model", expected="a run, a Keras model, or a path", found=type(model).__name__)
    path = as_path(model, "a run or a model")
    if path.is_dir() and not (path / SAVED_MODEL).is_file():
        return _open_run(open_run(path), os.fspath(model))
    if not path.is_file() or path.suffix != ".keras":
        raise _no_model(path)
    if run := _run_of(path):
        return _open_run(run, str(path))
    opened = _open(load_model_file(path), str(path))
    labels = path.with_name(LABELS_FILE)
    if not labels.is_file():
        return opened
    names, count = read_labels(labels), opened.interface.class_count
    if len(names) != count:
        raise RunError(
            f"{labels} does not name the classes of {path}",
            expected=f"{count} names, one per line",
            found=len(names),
            do="correct the file, or remove it",
        )
    return dataclasses.replace(opened, class_names=names)


def _open_run(run: Run, name: str) -> OpenModel:
    about = run.about.get("libraries", {})
    limit, pixels = max_pixels_of(about), pixels_of(about)
    return _open(run.model, name, class_names=run.class_names, max_pixels=limit, pixels=pixels, run=run)


def _open(model: keras.Model, name: str, **fields: Any) -> OpenModel:
    tensors = [model.input, model.output]
    if len(model.inputs) == len(model.outputs) == 1 and not all(isinstance(x, keras.KerasTensor) for x in tensors):
        model = keras.Model(model.inputs[0], model.outputs[0])  # From a dictionary or a list of one tensor.
    return OpenModel(network=model, interface=inspect(model, name), **fields)


def _no_model(path: Path) -> RunError:
    what, do = f"no run or model at {path}", None
    if path.is_dir():
        what, do = f"{path} is a SavedModel of TensorFlow", "save the model with model.save('NAME.keras')"
    elif path.is_file() and path.name.endswith(".weights.h5"):
        what, do = (
            f"{path} holds the weights of a model and not its layers",
            "save the model with model.save('NAME.keras')",
        )
    elif path.is_file() and path.suffix in (".h5", ".hdf5"):
        what = f"{path} is not a .keras file"
        do = f"convert it: keras.saving.load_model({str(path)!r}).save({str(path.with_suffix('.keras'))!r})"
    return RunError(what, expected="a run's folder or a .keras file", do=do)


def _run_of(path: Path) -> Run | None:
    """Return the run that wrote a model file, from the folder of the file; None if it is not there."""
    try:
        run = open_run(Path(os.path.realpath(path)).parent)
    except RunError:
        return None
    return run if file_digest(path) == run.about.get("model_sha256") else None


def probabilities(model: keras.Model, images: Iterable[np.ndarray], *, batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Compute a model's outputs in batches.

    Args:
        model: a model with one input and one output (n, units).
        images: (*shape), 0 to 255, as prepared by `Interface.prepare`. One batch is held at a time.
        batch_size: images per batch; a few images are computed as a smaller batch. A batch size that the model's input
            fixes comes first.

    Returns:
        (n, units) float32.

    Raises:
        RunError: a model that no run wrote cannot compute images of this size.
    """
    results = [np.empty((0, model.outputs[0].shape[-1]), np.float32)]
    engine: KerasEngine | None = None
    shape: tuple[int, ...] = ()
    fixed: int | None = model.inputs[0].shape[0]
    for batch in _batches(images, fixed or batch_size):
        if engine is None:
            engine, shape = KerasEngine(model, batch_size=fixed or batch_size_for(len(batch), batch_size)), batch.shape
        # An engine compiles for each size of images, which takes longer than to compute a few.
        usable = batch.shape[1:] == shape[1:] and len(batch) <= engine.batch_size
        try:
            results.append(engine(batch)[0] if usable or fixed else compute_once(model, batch)[0])
        except Exception as error:  # Backends raise errors of their own.
            if is_assembled(model):
                raise
            raise _cannot_compute(batch.shape, error) from error
    return np.concatenate(results)


def _cannot_compute(shape: tuple[int, ...], error: Exception) -> RunError:
    reason = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
    return RunError(f"the model cannot compute images of shape {shape[1:]}", found=reason[:MAX_REASON])


def _batches(images: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches (n, *shape) float32 of consecutive images of one size."""
    for shape, same in itertools.groupby(images, key=np.shape):
        count = max(1, min(batch_size, BATCH_BYTES // (4 * max(math.prod(shape), 1))))
        while batch := [pixels.astype(np.float32, copy=False) for pixels in itertools.islice(same, count)]:
            yield np.stack(batch)


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

    outputs = iter(model.interface.probabilities(probabilities(model.network, resized())))
    return [errors[index] if index in errors else next(outputs) for index in range(len(images))]


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
    prepare = model.interface.prepare
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
