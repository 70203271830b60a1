"""Evaluate a model on a dataset's images, read from their files at full size."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from permafrost.errors import DatasetError, ImageError, OptionError, listed
from permafrost.images.dataset import Dataset, read_dataset
from permafrost.images.options import ReadingOptions
from permafrost.images.splits import SPLITS
from permafrost.keras_state import keras_defaults
from permafrost.model.image_uses import ALL, ImageUses, uses_of
from permafrost.model.inference import ModelLike, OpenModel, classify, open_model
from permafrost.training.metrics import metrics

SHOWN_CLASSES: Final = 20
"""The maximum number of class names in an error."""


@keras_defaults()
def evaluate(
    model: ModelLike,
    data: str | os.PathLike[str],
    *,
    split: str | None = None,
    layout: str | None = None,
) -> dict[str, Any]:
    """Compute a model's metrics on one split of a dataset, or on all of it. Only the images scored are decoded.

    A run knows the images that it was made from by their content, wherever they are now. They have the run's split,
    whatever the dataset says; other images have the split that the dataset gives them, if any.

    Args:
        model: a run, its folder, a `.keras` file, or a Keras model.
        data: a dataset, as for `extract`. It may have one class, or some of the model's.
        split: `train`, `validation` or `test`; or `all`, which scores every image. If None, `test` if the run knows any
            of the images, or if there is no record of the model's images and the dataset names test images; else `all`.
        layout: the levels of the dataset's folders, as for `extract`.

    Returns:
        The result of `training.metrics.metrics`, with

        - `split`, `model` and `data`;
        - `images`, the number of images in the dataset; `known`, those that the run knows; `unknown_not_scored`, those
          that it does not know and that the dataset gives no split; `trained_on`, those of the scored images that the
          model was trained on. `known` and `trained_on` are None if there is no record of the model's images;
        - `skipped` and `skipped_paths`, what could not be used, each with its `path` and `reason`;
        - `notes` and `warnings`, one line each.

    Raises:
        PermafrostError: the request or its input is wrong; see `permafrost.errors`.
    """
    if split not in (None, *SPLITS, ALL):
        raise OptionError("no such split", expected=", ".join((*SPLITS, ALL)), found=split)
    bare = open_model(model)
    dataset = read_dataset(data, ReadingOptions(layout=layout), min_classes=1, pixels=bare.pixels)
    opened = bare.with_classes(dataset.class_names)
    numbers = class_numbers(dataset, opened.class_names)
    uses = uses_of(dataset, opened.run.images if opened.run else None)
    split = split or uses.default_split
    rows = uses.rows(split)
    if not len(rows):
        raise uses.nothing_to_score(dataset.root, split)
    scored, outputs, bad = _outputs(dataset, rows, opened)
    labels = np.array([numbers[dataset.labels[row]] for row in scored], np.int64)
    about = _about(dataset, opened, split, uses, scored, bad)
    about["notes"] += _class_notes(bare, dataset)
    return metrics(labels, outputs, opened.class_names) | about


def _outputs(
    dataset: Dataset, rows: np.ndarray, model: OpenModel
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """Run a model on some images of a dataset.

    Returns:
        The images that can be decoded, (k,) int64; their probabilities, (k, classes) float32; and the name and reason
        of each other image.

    Raises:
        DatasetError: none of them can be decoded.
    """
    found = list(zip(rows, classify([dataset.image(row) for row in rows], model), strict=True))
    bad = [(dataset.names[row], str(result)) for row, result in found if isinstance(result, ImageError)]
    scored = [(row, result) for row, result in found if isinstance(result, np.ndarray)]
    if not scored:
        raise DatasetError(f"none of the {len(rows)} images to score can be decoded", found=": ".join(bad[0]))
    decoded, outputs = zip(*scored, strict=True)
    return np.array(decoded, np.int64), np.stack(outputs), bad


def _about(
    dataset: Dataset, opened: OpenModel, split: str, uses: ImageUses, scored: np.ndarray, bad: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return the part of the result that says what was scored."""
    skipped = [*dataset.skipped, *bad]
    missing = opened.run.about.get("images_missing") if opened.run else None
    behind = [f"what the base of this run was trained on is not fully known: {missing}"] if missing else []
    return {
        "split": split,
        "model": opened.name,
        "data": dataset.root,
        "images": len(dataset),
        "known": None if uses.used is None else int(uses.known.sum()),
        "unknown_not_scored": uses.unknown_not_scored(split),
        "trained_on": uses.trained_on(scored),
        "skipped": len(skipped),
        "skipped_paths": [{"path": name, "reason": reason} for name, reason in skipped],
        "notes": [*opened.notes, *dataset.notes, *uses.notes(split)],
        "warnings": [*dataset.warnings, *behind, *uses.warnings(split, scored)],
    }


def _class_notes(model: OpenModel, dataset: Dataset) -> list[str]:
    """Return a note if a model's classes are unknown, so that those of the dataset stand for them."""
    if model.class_names:
        return []
    names = ", ".join(dataset.class_names)
    return [f"the model does not name its classes; they are taken to be the dataset's, in order: {names}"]


def class_numbers(dataset: Dataset, class_names: Sequence[str]) -> list[int]:
    """Return the number of each class of a dataset among a model's classes. Names in any Unicode form are equal.

    Raises:
        DatasetError: the dataset has a class that the model does not know.
    """
    numbers = {unicodedata.normalize("NFC", name): number for number, name in enumerate(class_names)}
    found = [numbers.get(unicodedata.normalize("NFC", name)) for name in dataset.class_names]
    unknown = [name for name, number in zip(dataset.class_names, found, strict=True) if number is None]
    if unknown:
        alike = {_loose(name): name for name in class_names}
        raise DatasetError(
            f"{dataset.root} has a class that the model does not know",
            expected=listed(class_names, SHOWN_CLASSES),
            found=listed(
                (
                    f"{name} (only case or blanks differ from {alike[_loose(name)]})" if _loose(name) in alike else name
                    for name in unknown
                ),
                SHOWN_CLASSES,
            ),
            do="leave the class out, or give it the model's name",
        )
    return [number for number in found if number is not None]


def _loose(name: str) -> str:
    """Return a name without what people overlook."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
