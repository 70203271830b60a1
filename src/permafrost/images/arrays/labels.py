"""Labels and groups in arrays."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from permafrost.errors import DatasetError
from permafrost.images.labels import require_classes
from permafrost.images.tables.text import stripped

Label = int | str | bool

_LARGEST: Final = 2**53
"""Floats above it are not exact."""


def read_labels(where: str, labels: np.ndarray, count: int) -> list[Label]:
    """Return the label of each image: a whole number, a name or a boolean.

    Args:
        where: what they are, for errors: `labels y_train in photos.npz`.
        labels: (n,) or (n, 1) whole numbers of any dtype, booleans, str or bytes; or (n, k), one 1 per row.
        count: the number of images.

    Raises:
        DatasetError: they are not one class per image.
    """
    _require_count(where, labels, count)
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "buif":
        return _from_one_hot(where, labels)
    too_large = labels.dtype.kind == "f" and bool((np.abs(labels.astype(np.float64)) > _LARGEST).any())
    if labels.ndim > 2 or labels.size != count or labels.dtype.kind not in "buifUS" or too_large:
        raise DatasetError(
            f"{where} are not one class per image",
            expected=f"whole numbers or names, shape ({count},)",
            found=f"{labels.dtype} {labels.shape}",
        )
    labels = labels.reshape(-1)
    if labels.dtype.kind in "US":
        texts = _texts(where, labels)
        _require_none_missing(where, [not text for text in texts])
        return texts
    if labels.dtype.kind == "f":
        _require_none_missing(where, ~np.isfinite(labels))
        require_classes(where, [str(label) for label in labels])
        labels = labels.astype(np.int64)
    return list(labels.tolist())


def read_groups(where: str, groups: np.ndarray, count: int) -> list[str | None]:
    """Return the group of each image, None where it is empty or not a number.

    Args:
        where: what they are, for errors.
        groups: (n,) or (n, 1) numbers, str or bytes.
        count: the number of images.

    Raises:
        DatasetError: they are not one per image.
    """
    _require_count(where, groups, count)
    if groups.size != count or groups.dtype.kind not in "buifUS":
        raise DatasetError(
            f"{where} are not one group per image",
            expected=f"numbers or names, shape ({count},)",
            found=f"{groups.dtype} {groups.shape}",
        )
    groups = groups.reshape(-1)
    if groups.dtype.kind in "US":
        return [text or None for text in _texts(where, groups)]
    known = groups.tolist()
    return [None if group != group else f"{group:.17g}" if isinstance(group, float) else str(group) for group in known]


def class_names_of(path: str, labels: Sequence[Label], names: np.ndarray | None) -> dict[Label, str]:
    """Return the class name of each label, sorted by label; labels that are numbers are sorted by value.

    Args:
        path: the file, for errors.
        labels: the labels of all images.
        names: the name of each number, or None.

    Raises:
        DatasetError: the labels are of several kinds, or `names` does not fit them.
    """
    kinds = sorted({type(label).__name__ for label in labels})
    if len(kinds) > 1:
        raise DatasetError(
            f"labels in {path} are of one kind in one split and of another in another",
            expected="the same kind",
            found=" and ".join({"str": "names", "int": "numbers", "bool": "booleans"}[kind] for kind in kinds),
        )
    classes = sorted(set(labels))
    if names is None or not classes or kinds == ["str"]:
        return {label: str(label) for label in classes}
    low, high = int(classes[0]), int(classes[-1])
    if names.ndim != 1 or names.dtype.kind not in "US" or low < 0 or high >= len(names):
        raise DatasetError(
            f"class_names in {path} do not fit the labels",
            expected=f"a name for each of {low} to {high}",
            found=f"{names.dtype} {names.shape}",
        )
    texts = _texts(f"class_names in {path}", names)
    named = {label: texts[int(label)] for label in classes}
    if "" in named.values() or len(set(named.values())) < len(named):
        raise DatasetError(
            f"class_names in {path} do not tell the classes apart",
            expected="another name for each",
            found=", ".join(name or "an empty one" for name in named.values()),
        )
    return named


def _texts(where: str, texts: np.ndarray) -> list[Any]:
    """Return (n,) str or bytes as text without blanks around it, in one Unicode form, as tables have it."""
    known: dict[str | bytes, str] = {}
    for text in np.unique(texts).tolist():
        try:
            decoded = text.decode() if isinstance(text, bytes) else text.encode().decode()
        except UnicodeError as error:
            raise DatasetError(
                f"{where} are not UTF-8",
                expected="text",
                found=repr(text)[:60],
                do="decode them, such as numpy.char.decode(y, 'latin-1')",
            ) from error
        known[text] = unicodedata.normalize("NFC", stripped(decoded))
    return [known[text] for text in texts.tolist()]


def _require_count(where: str, values: np.ndarray, count: int) -> None:
    if values.ndim == 0 or len(values) != count:
        raise DatasetError(f"{where} do not fit the images", expected=f"{count:,}, one per image", found=values.shape)


def _require_none_missing(where: str, missing: Sequence[bool] | np.ndarray) -> None:
    if np.any(missing):
        raise DatasetError(
            f"{where} are missing for {np.sum(missing):,} images, the first is number {np.argmax(missing)}",
            expected="a class for each image",
            do="fill them in, or leave those images out",
        )


def _from_one_hot(where: str, labels: np.ndarray) -> list[Label]:
    """Return the column of the 1 in each row."""
    ones, zeros = labels == 1, labels == 0
    if not (ones | zeros).all():
        raise DatasetError(
            f"{where} are several numbers per image",
            expected=f"one class per image, shape ({len(labels)},), or one 1 per row",
            found=f"{labels.dtype} {labels.shape}",
            do="take the most probable class with y.argmax(axis=1) if they are probabilities",
        )
    counts = ones.sum(axis=1)
    for wrong, what in ((counts > 1, "several classes"), (counts == 0, "no class")):
        if wrong.any():
            raise DatasetError(
                f"{wrong.sum():,} images have {what} in {where}, the first is number {wrong.argmax()}",
                expected="one 1 per row",
                do="leave those images out, or give each image its main class",
            )
    return [int(column) for column in ones.argmax(axis=1)]
