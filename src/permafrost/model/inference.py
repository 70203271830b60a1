"""Use a model on images: the work behind `evaluate` and `predict`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from permafrost.errors import DatasetError, ImageError, OptionError, RunError
from permafrost.images.dataset import read_dataset
from permafrost.images.folders import walk_images
from permafrost.images.sources import ArrayImage, FileImage, ImageSource
from permafrost.images.splits import SPLITS, assign_splits
from permafrost.machine import cpu_count
from permafrost.model.assembly import probabilities
from permafrost.model.run import LABELS_FILE, Run, open_run
from permafrost.training.metrics import metrics
from permafrost.trunk.bases import load_model_file

if TYPE_CHECKING:
    import keras


def evaluate(
    model: Run | keras.Model | str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: str = "test",
    validation_fraction: float | None = None,
    test_fraction: float | None = None,
) -> dict[str, Any]:
    """Figures of a model on the images of a dataset, read from their files at full size.

    Args:
        model: a run, its folder, a `.keras` file, or a Keras model.
        data: as for `extract`.
        split: `train`, `validation` or `test`.
        validation_fraction, test_fraction: as for `extract`, where the dataset names no splits.

    Returns:
        `evaluation.metrics`, with `split`, `model`, `data`, and `skipped`, the number of images that could not be
        decoded.

    Raises:
        PermafrostError: something about the request or its input; see `permafrost.errors`.
    """
    if split not in SPLITS:
        raise OptionError("no such split", expected=", ".join(SPLITS), found=split)
    dataset = read_dataset(data)
    network, class_names = open_model(model)
    class_names = class_names or dataset.class_names
    unknown = sorted(set(dataset.class_names) - set(class_names))
    if unknown:
        raise DatasetError(
            f"{dataset.root} has a class that the model does not know",
            expected=", ".join(class_names),
            found=", ".join(unknown),
        )
    _require_outputs(network, class_names)
    wanted = _wanted(dataset.splits, split)
    kept: list[int] = []
    digests: list[bytes] = []
    failed = 0

    def images() -> Iterator[np.ndarray]:
        nonlocal failed
        found = _load([dataset.image(index) for index in wanted])
        for index, outcome in zip(wanted, found, strict=True):
            if isinstance(outcome, ImageError):
                failed += 1
                continue
            digest, pixels = outcome
            chosen = assign_splits(
                [digest], [dataset.splits[index]], validation_fraction=validation_fraction, test_fraction=test_fraction
            )
            if chosen == [split]:
                kept.append(index)
                digests.append(digest)
                yield pixels

    outputs = probabilities(network, images())
    if not kept:
        raise DatasetError(f"no images for {split} in {dataset.root}", found=_counts(dataset.splits))
    renumber = [class_names.index(name) for name in dataset.class_names]
    labels = np.array([renumber[dataset.labels[index]] for index in kept], np.int64)
    about = {"split": split, "model": str(_path(model)), "data": dataset.root, "skipped": failed}
    return metrics(labels, outputs, class_names) | about


def predict(
    model: Run | keras.Model | str | os.PathLike[str],
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | np.ndarray],
    *,
    top: int = 3,
) -> list[dict[str, Any]]:
    """What a model says of images.

    Args:
        model: a run, its folder, a `.keras` file, or a Keras model.
        images: paths of files, or of folders, whose images are taken; or arrays (h, w, 3), 0 to 255. One path alone
            will do.
        top: how many classes to give for each, the most probable first.

    Returns:
        For each image `path` (None for an array), `label`, `probability`, and `top`, a list of `label` and
        `probability`; or `path` and `error` where it cannot be decoded.

    Raises:
        PermafrostError: something about the request or its input; see `permafrost.errors`.
    """
    if top < 1:
        raise OptionError("top is too small", expected="1 or more", found=top)
    wanted = list(_expanded([images] if isinstance(images, str | os.PathLike) else images))
    if not wanted:
        raise DatasetError("no images to predict", expected="paths of images, or of folders with some")
    network, class_names = open_model(model)
    count = int(network.outputs[0].shape[-1])
    class_names = class_names or tuple(f"class {number}" for number in range(count))
    _require_outputs(network, class_names)
    outcomes: list[ImageError | None] = []

    def decoded() -> Iterator[np.ndarray]:
        for outcome in _load([image for _, image in wanted]):
            outcomes.append(outcome if isinstance(outcome, ImageError) else None)
            if not isinstance(outcome, ImageError):
                yield outcome[1]

    outputs = iter(probabilities(network, decoded()))
    return [
        {"path": path, "error": str(error)} if error else {"path": path} | _answer(next(outputs), class_names, top)
        for (path, _), error in zip(wanted, outcomes, strict=True)
    ]


def open_model(model: Run | keras.Model | str | os.PathLike[str]) -> tuple[keras.Model, tuple[str, ...]]:
    """A model to be used, and its classes' names; none where nothing says them.

    Raises:
        RunError: neither a run nor a model's file.
    """
    if not isinstance(model, str | os.PathLike | Run):
        return model, ()
    path = _path(model)
    if isinstance(model, Run) or Path(path).is_dir():
        run = model if isinstance(model, Run) else open_run(path)
        return run.model, run.class_names
    if not Path(path).is_file() or Path(path).suffix != ".keras":
        raise RunError(f"no run and no model at {path}", expected="a run's folder or a .keras file")
    labels = Path(path).with_name(LABELS_FILE)
    names = tuple(labels.read_text("utf-8").splitlines()) if labels.is_file() else ()
    return load_model_file(path), names


def _path(model: Any) -> Any:
    if isinstance(model, Run):
        return model.folder
    return os.fspath(model) if isinstance(model, str | os.PathLike) else "a model in memory"


def _require_outputs(model: keras.Model, class_names: Sequence[str]) -> None:
    count = model.outputs[0].shape[-1]
    if count != len(class_names):
        raise RunError("the model has another number of classes", expected=len(class_names), found=count)


def _wanted(splits: Sequence[str | None], split: str) -> list[int]:
    """Entries that are in the split, or whose content will say so."""
    return [index for index, given in enumerate(splits) if given in (split, None)]


def _counts(splits: Sequence[str | None]) -> str:
    return ", ".join(f"{splits.count(split)} for {split}" for split in SPLITS if split in splits) or "none"


def _load(images: Sequence[ImageSource]) -> Iterator[tuple[bytes, np.ndarray] | ImageError]:
    """Digest and pixels at full size of each image, decoded by threads a little ahead."""

    def load(image: ImageSource) -> tuple[bytes, np.ndarray] | ImageError:
        try:
            loaded = image.load()
            return loaded.digest, loaded.full_size()
        except ImageError as error:
            return error

    workers = cpu_count()
    ahead = 4 * workers
    with ThreadPoolExecutor(workers, "images") as threads:
        for start in range(0, len(images), ahead):
            yield from threads.map(load, images[start : start + ahead])


def _expanded(images: Iterable[str | os.PathLike[str] | np.ndarray]) -> Iterator[tuple[str | None, ImageSource]]:
    for image in images:
        if isinstance(image, np.ndarray):
            yield None, ArrayImage(image)
            continue
        path = os.fspath(image)
        if not os.path.isdir(path):
            yield path, FileImage(path)
            continue
        for name, reason in walk_images(path):
            if reason is None:
                yield os.path.join(path, name), FileImage(os.path.join(path, name))


def _answer(row: np.ndarray, class_names: Sequence[str], top: int) -> dict[str, Any]:
    order = np.argsort(-row, kind="stable")[:top]
    best = [{"label": class_names[i], "probability": float(row[i])} for i in order]
    return {"label": best[0]["label"], "probability": best[0]["probability"], "top": best}
