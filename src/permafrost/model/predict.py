"""Classify images with a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from permafrost.errors import ImageError, OptionError
from permafrost.images.folders.found import FoundImages, Images, find_images
from permafrost.keras_state import keras_defaults
from permafrost.model.inference import ModelLike, classify, open_model
from permafrost.options import checked


@keras_defaults()
def predict(
    model: ModelLike,
    images: Images,
    *,
    top: int = 3,
) -> list[dict[str, Any]]:
    """Classify images.

    Args:
        model: a run, its folder, a `.keras` file, or a Keras model.
        images: paths of image files, or of folders with image files; or arrays (h, w, 3), 0 to 255, or of another
            range: the one that all of them together make clear, or that of the arrays that the run was trained on
            (`images.arrays.ranges`). A single path or image need not be in a list.
            Hidden files in folders, and files that are not images, are skipped.
        top: the number of classes to return per image, the most probable first.

    Returns:
        For each image: `path` (None for an array), `label`, `probability`, and `top`, a list of `label` and
        `probability`; or `path` and `error` if it cannot be decoded.

    Raises:
        PermafrostError: the request or its input is wrong; see `permafrost.errors`.
    """
    opened = open_model(model)
    return predict_found(opened, find_images(images, pixels=opened.pixels), top=top)


def predict_found(
    model: ModelLike, found: FoundImages, *, top: int, note: Callable[[str], object] = lambda _: None
) -> list[dict[str, Any]]:
    """Classify images that have been found, as `predict` does; `note` is called with each note on the model."""
    top = checked("top", top, int)
    if top < 1:
        raise OptionError("top is too small", expected="1 or more", found=top)
    opened = open_model(model)
    for line in opened.notes:
        note(line)
    opened = opened.with_classes([f"class {number}" for number in range(opened.interface.class_count)])
    results = classify([image for _, image in found.images], opened)
    return [
        {"path": path} | _answer(result, opened.class_names, top)
        for (path, _), result in zip(found.images, results, strict=True)
    ]


def _answer(row: np.ndarray | ImageError, class_names: Sequence[str], top: int) -> dict[str, Any]:
    if isinstance(row, ImageError):
        return {"error": str(row)}
    order = np.argsort(-row, kind="stable")[:top]
    best = [{"label": class_names[i], "probability": float(row[i])} for i in order]
    return {"label": best[0]["label"], "probability": best[0]["probability"], "top": best}
