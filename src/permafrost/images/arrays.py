"""Datasets in an npz file with `X_train, y_train[, X_validation, y_validation, ...]`, or `X` and `y`."""

from __future__ import annotations

import dataclasses
import math
import os
import zipfile
import zlib
from typing import Any

import numpy as np

from permafrost.errors import DatasetError
from permafrost.images.entries import Entries
from permafrost.images.split_names import split_named
from permafrost.machine import available_memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """The images of one split.

    Attributes:
        key: the name of the images' array, e.g. `X_train`.
        split: the split, or None if the key does not name one.
        images: (n, h, w) or (n, h, w, c).
        labels: (n,) or (n, 1) whole numbers, str or bytes.
    """

    key: str
    split: str | None
    images: np.ndarray
    labels: np.ndarray


def read_arrays(path: str) -> Entries:
    """Read a dataset from an npz file.

    Labels are whole numbers or names. An optional array `class_names` gives the name of each number.

    Raises:
        DatasetError: the file cannot be read, does not fit into memory, or an array is missing or of the wrong shape.
    """
    stored = _load(path)
    parts: list[_Part] = []
    for key in stored:
        if key != "X" and not key.startswith("X_"):
            continue
        suffix = key[1:]
        split = split_named(suffix[1:])
        if suffix and split is None:
            raise DatasetError(f"unknown split in {path}", expected="X_train, X_validation, X_test", found=key)
        if f"y{suffix}" not in stored:
            raise DatasetError(f"labels missing in {path}", expected=f"y{suffix} beside {key}", found=", ".join(stored))
        parts.append(_Part(key=key, split=split, images=stored[key], labels=stored[f"y{suffix}"]))
        _check_part(path, parts[-1])
    if not parts:
        raise DatasetError(f"no images in {path}", expected="X_train and y_train", found=", ".join(stored) or "none")
    values = [_plain(label) for part in parts for label in part.labels.reshape(-1).tolist()]
    classes = _class_names(path, values, stored.get("class_names"))
    return Entries(
        names=[f"{part.key}[{index}]" for part in parts for index in range(len(part.images))],
        labels=[classes[value] for value in values],
        splits=[part.split for part in parts for _ in part.images],
        class_names=list(classes.values()),
        arrays=[image for part in parts for image in part.images],
    )


def _load(path: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as members, np.load(path, allow_pickle=False) as file:
            _require_memory(path, members)
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"cannot read {path}", found=str(error), do="save it with numpy.savez") from error


def _require_memory(path: str, members: zipfile.ZipFile) -> None:
    """Refuse arrays that declare more bytes than the file holds, or that do not fit into memory together."""
    needed = 0
    for member in members.infolist():
        with members.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            declared, held = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if not dtype.hasobject and declared > held:
            raise DatasetError(
                f"{member.filename} in {path} declares more than it holds",
                expected=f"{held:,} bytes",
                found=f"{declared:,}",
            )
        needed += declared
    available = available_memory()
    if needed > available:
        raise DatasetError(
            f"{path} does not fit into memory",
            expected=f"at most {available:,} bytes",
            found=f"{needed:,}",
            do="save the images as files",
        )


def _check_part(path: str, part: _Part) -> None:
    images, labels = part.images, part.labels
    if images.ndim not in (3, 4):
        raise DatasetError(
            f"{part.key} in {path} does not hold images", expected="shape (n, h, w, 3)", found=images.shape
        )
    if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in "iuUS":
        raise DatasetError(
            f"labels of {part.key} in {path} are not one class per image",
            expected=f"{len(images)} whole numbers or names, shape ({len(images)},)",
            found=f"{labels.dtype} {labels.shape}",
        )
    if labels.dtype.kind in "US":
        (missing,) = (labels.reshape(-1) == labels.dtype.type()).nonzero()
        if len(missing):
            raise DatasetError(
                f"{len(missing):,} labels of {part.key} in {path} are empty, the first is number {missing[0]}",
                expected="a class name for each image",
                do="fill them in, or leave those images out",
            )


def _plain(label: Any) -> Any:
    return os.fsdecode(label) if isinstance(label, bytes) else label


def _class_names(path: str, values: list[Any], names: np.ndarray | None) -> dict[Any, str]:
    """Return the class name of each label, sorted by label; labels that are numbers are sorted by value.

    Args:
        path: the file, for errors.
        values: the labels, each an int or a str.
        names: the name of each number, or None.
    """
    if len({type(value) for value in values}) > 1:
        raise DatasetError(f"labels in {path} are numbers in one split and names in another", expected="the same kind")
    classes = sorted(set(values))
    if names is None or not classes or isinstance(classes[0], str):
        return {value: str(value) for value in classes}
    if names.ndim != 1 or classes[0] < 0 or classes[-1] >= len(names):
        raise DatasetError(
            f"class_names in {path} do not fit the labels",
            expected=f"a name for each of {classes[0]} to {classes[-1]}",
            found=f"shape {names.shape}",
        )
    return {value: str(names[value]) for value in classes}
