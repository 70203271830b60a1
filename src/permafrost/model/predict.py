"""Classify images with a model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from permafrost.errors import DatasetError, ImageError, OptionError
from permafrost.images.folders import walk_images
from permafrost.images.ranges import range_of
from permafrost.images.shapes import CHANNELS
from permafrost.images.sources import ArrayImage, FileImage, ImageSource
from permafrost.model.inference import ModelLike, classify, open_model


def predict(
    model: ModelLike,
    images: str | os.PathLike[str] | np.ndarray | Sequence[str | os.PathLike[str] | np.ndarray],
    *,
    top: int = 3,
) -> list[dict[str, Any]]:
    """Classify images.

    Args:
        model: a run, its folder, a `.keras` file, or a Keras model.
        images: paths of image files, or of folders with image files; or arrays (h, w, 3), 0 to 255, or of another
            range that all of them together make clear (`images.ranges`). A single path or image need not be in a list.
        top: the number of classes to return per image, the most probable first.

    Returns:
        For each image: `path` (None for an array), `label`, `probability`, and `top`, a list of `label` and
        `probability`; or `path` and `error` if it cannot be decoded.

    Raises:
        PermafrostError: the request or its input is wrong; see `permafrost.errors`.
    """
    if top < 1:
        raise OptionError("top is too small", expected="1 or more", found=top)
    found = list(_expanded(_listed(images)))
    if not found:
        raise DatasetError("no images to predict", expected="paths of images, or of folders with images")
    opened = open_model(model)
    opened = opened.with_classes([f"class {number}" for number in range(opened.network.outputs[0].shape[-1])])
    results = classify([image for _, image in found], opened)
    return [
        {"path": path} | _answer(result, opened.class_names, top)
        for (path, _), result in zip(found, results, strict=True)
    ]


def _listed(
    images: str | os.PathLike[str] | np.ndarray | Sequence[str | os.PathLike[str] | np.ndarray],
) -> list[str | os.PathLike[str] | np.ndarray]:
    """Return images, or a single one, as a list of paths and arrays."""
    if isinstance(images, str | os.PathLike) or (isinstance(images, np.ndarray) and _is_one_image(images.shape)):
        return [images]
    found = list(images)
    for image in found:
        if not isinstance(image, str | os.PathLike | np.ndarray):
            raise OptionError("not an image", expected="paths, or arrays (h, w, 3)", found=type(image).__name__)
    return found


def _is_one_image(shape: tuple[int, ...]) -> bool:
    if len(shape) == 3 and shape[0] in CHANNELS and shape[2] not in CHANNELS:
        raise OptionError(
            f"an array {shape} has two readings: one image with channels first, or {shape[0]} grey images",
            expected="(h, w, 3), or (n, h, w, 3)",
            do="give a list of images",
        )
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in CHANNELS)


def _expanded(
    images: Sequence[str | os.PathLike[str] | np.ndarray],
) -> Iterator[tuple[str | None, ImageSource]]:
    """Yield the path (None for an array) and source of each image, and of each image in a folder."""
    pixels = range_of("the arrays", [image for image in images if isinstance(image, np.ndarray)])
    for image in images:
        if isinstance(image, np.ndarray):
            yield None, ArrayImage(image, pixels)
            continue
        path = os.fspath(image)
        if not os.path.isdir(path):
            yield path, FileImage(path)
            continue
        for name, reason in walk_images(path):
            if reason is None:
                yield os.path.join(path, name), FileImage(os.path.join(path, name))


def _answer(row: np.ndarray | ImageError, class_names: Sequence[str], top: int) -> dict[str, Any]:
    if isinstance(row, ImageError):
        return {"error": str(row)}
    order = np.argsort(-row, kind="stable")[:top]
    best = [{"label": class_names[i], "probability": float(row[i])} for i in order]
    return {"label": best[0]["label"], "probability": best[0]["probability"], "top": best}
