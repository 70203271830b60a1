"""Datasets in an npz file: `X_train, y_train[, X_validation, y_validation, ...]`, or `X` and `y`."""

from __future__ import annotations

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from permafrost.errors import DatasetError, OptionError
from permafrost.images.arrays.labels import Label, class_names_of, read_groups, read_labels
from permafrost.images.arrays.names import CLASS_NAMES, GROUPS, SplitArrays, splits_of
from permafrost.images.arrays.pixel_values import PixelValues, pixel_values, require_numbers
from permafrost.images.arrays.ranges import PixelRange, pixel_range
from permafrost.images.arrays.shapes import channels_last, remedy
from permafrost.images.entries import Entries
from permafrost.images.options import RECOGNISED, ReadingOptions
from permafrost.machine import available_memory

NOT_FINITE: Final = "NaN or infinity among its values"
"""Why an image is skipped."""

_OTHER_FILES: Final = {
    b"\x93NUMPY": "one array, as numpy.save writes it",
    b"\x80": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"MATLAB": "a MATLAB file",
    b"\x1f\x8b": "a gzip file",
    b"PK": "the beginning of an npz file, whose end is missing",
    b"": "another file",
}
"""First bytes of files that are not npz files, and what they are."""


@dataclasses.dataclass(frozen=True)
class _Header:
    """What an npz file says about one of its arrays."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """The images of one split.

    Attributes:
        arrays: the names of its arrays.
        images: (n, h, w) or (n, h, w, c).
        labels: n labels.
        groups: n groups, or None.
    """

    arrays: SplitArrays
    images: np.ndarray
    labels: Sequence[Label]
    groups: Sequence[str | None] | None


def read_arrays(path: str, options: ReadingOptions = RECOGNISED, *, pixels: PixelRange | None = None) -> Entries:
    """Read a dataset from an npz file.

    All images become uint8, and what their values mean is decided by all of them together (`arrays.ranges`). Labels are
    whole numbers, booleans, names, or one 1 per row. An optional array `class_names` gives the name of each number, and
    `groups`, or the one that `options.split_by` names, the group of each image.

    Args:
        path: the file.
        options: how to read it.
        pixels: what the values of another dataset's arrays meant, which holds for these where they fit it.

    Raises:
        DatasetError: the file cannot be read, does not fit into memory, or an array is missing or of the wrong shape,
            dtype or range.
        OptionError: it has no array that `options.split_by` names.
    """
    headers = _headers(path)
    groups = GROUPS if options.split_by is None else (options.split_by.lower(),)
    splits = splits_of(path, {name: header.shape for name, header in headers.items()}, groups=groups)
    if options.split_by is not None and not any(split.groups for split in splits):
        raise OptionError(
            f"no groups in {path}", expected=f"an array {options.split_by} beside the images", found=", ".join(headers)
        )
    named = next((name for name, header in headers.items() if _may_be_class_names(name, header)), None)
    used = [name for split in splits for name in (split.images, split.labels, split.groups) if name]
    stored = _load(path, headers, [*used, *([named] if named else [])], images=[split.images for split in splits])
    read, moved = zip(*(_part(path, split, stored) for split in splits), strict=True)
    classes = class_names_of(path, [label for part in read for label in part.labels], stored.get(named or ""))
    values = [pixel_values(f"{part.arrays.images} in {path}", part.images) for part in read]
    entries = _entries(read, values, pixel_range(values, fitted=pixels), classes)
    unused = [(name, "neither images nor their labels") for name in headers if name not in stored]
    return dataclasses.replace(
        entries,
        skipped=[*unused, *entries.skipped],
        notes=[*entries.notes, *(["channels come first, moved last"] if any(moved) else [])],
    )


def _may_be_class_names(name: str, header: _Header) -> bool:
    return name.lower() == CLASS_NAMES[0] or (name.lower() in CLASS_NAMES and header.dtype.kind in "USO")


def _entries(
    parts: Sequence[_Part], values: Sequence[PixelValues], pixels: PixelRange, classes: Mapping[Label, str]
) -> Entries:
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    arrays: list[np.ndarray] = []
    labels: list[str] = []
    splits: list[str | None] = []
    groups: list[str | None] = []
    for part, value in zip(parts, values, strict=True):
        key = part.arrays.images
        skipped += [(f"{key}[{row}]", NOT_FINITE) for row in np.flatnonzero(~value.finite)]
        rows = np.flatnonzero(value.finite).tolist()
        arrays.extend(pixels.convert(part.images if value.finite.all() else part.images[value.finite]))
        names += [f"{key}[{row}]" for row in rows]
        labels += [classes[part.labels[row]] for row in rows]
        splits += [part.arrays.split] * len(rows)
        groups += [part.groups[row] if part.groups else None for row in rows]
    present = set(labels)
    grouped_by = next((f"array {part.arrays.groups}" for part in parts if part.groups), "")
    return Entries(
        names=names,
        labels=labels,
        splits=splits,
        skipped=skipped,
        class_names=[name for name in classes.values() if name in present],
        arrays=arrays,
        pixels=pixels,
        groups=groups if grouped_by else None,
        grouped_by=grouped_by,
        notes=[pixels.note] if pixels.note else [],
        warnings=[pixels.warning] if pixels.warning else [],
    )


def _part(path: str, split: SplitArrays, stored: Mapping[str, np.ndarray]) -> tuple[_Part, bool]:
    """Return the images of a split, and whether their channels come first."""
    images = stored[split.images]
    where = f"{split.images} in {path}"
    require_numbers(where, images.dtype)
    shaped = channels_last(images)
    if shaped is None:
        raise DatasetError(
            f"{where} does not hold images",
            expected="shape (n, h, w, 3)",
            found=images.shape,
            do=remedy(images.shape),
        )
    part = _Part(
        arrays=split,
        images=shaped,
        labels=read_labels(f"labels {split.labels} in {path}", stored[split.labels], len(images)),
        groups=read_groups(f"groups {split.groups} in {path}", stored[split.groups], len(images))
        if split.groups
        else None,
    )
    return part, shaped.shape != images.shape


_ERRORS: Final = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged npz file raises."""


def _headers(path: str) -> dict[str, _Header]:
    """Return the shape and dtype of each array; refuse one that declares more bytes than the file holds."""
    found: dict[str, _Header] = {}
    try:
        with open(path, "rb") as file:
            beginning = file.read(16)
        if not zipfile.is_zipfile(path):
            is_known = next(what for start, what in _OTHER_FILES.items() if beginning.startswith(start))
            raise DatasetError(
                f"not an npz file: {path}",
                found=is_known if beginning else "an empty file",
                do="save it with numpy.savez(file, X=..., y=...)",
            )
        with zipfile.ZipFile(path) as members:
            for member in members.infolist():
                if member.filename.endswith(".npy"):
                    found[member.filename.removesuffix(".npy")] = _header(path, members, member)
    except _ERRORS as error:
        raise DatasetError(f"cannot read {path}", found=str(error), do="save it again with numpy.savez") from error
    return found


def _header(path: str, members: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Header:
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
    return _Header(shape, dtype)


def _load(
    path: str, headers: Mapping[str, _Header], names: Sequence[str], *, images: Sequence[str]
) -> dict[str, np.ndarray]:
    """Load arrays, without pickles, if they fit into memory together with the images as bytes."""
    needed = 0
    for name in dict.fromkeys(names):
        header = headers[name]
        if header.dtype.hasobject:
            raise DatasetError(
                f"{name} in {path} holds Python objects, which only pickle can read",
                expected="numbers" if name in images else "numbers or text",
                do=_without_objects(name, header.shape, images=name in images),
            )
        values = math.prod(header.shape)
        needed += values * (header.dtype.itemsize + (name in images and header.dtype != np.uint8))
    available = available_memory()
    if needed > available:
        raise DatasetError(
            f"{path} does not fit into memory",
            expected=f"at most {available:,} bytes",
            found=f"{needed:,}",
            do="save the images as files",
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except _ERRORS as error:
        raise DatasetError(f"cannot read {path}", found=str(error), do="save it again with numpy.savez") from error


def _without_objects(name: str, shape: tuple[int, ...], *, images: bool) -> str:
    """Return how to save an array that holds Python objects."""
    if not images:
        return f"save {name}.astype(str)"
    if len(shape) > 1:
        return f"save {name}.astype(float)"
    return "save images of several sizes as files, those of one size as numpy.stack(list(...))"
