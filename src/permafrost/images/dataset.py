"""A dataset: paths, labels, splits and class names, read from a folder, a CSV or an npz file.

Labels belong to the dataset, never to the features: an image can have different labels in different datasets.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import numpy as np

from permafrost.errors import DatasetError, OptionError
from permafrost.images.arrays.ranges import PixelRange
from permafrost.images.arrays.reading import read_arrays
from permafrost.images.entries import Entries
from permafrost.images.folders.reading import read_folder
from permafrost.images.labels import require_classes
from permafrost.images.options import RECOGNISED, ReadingOptions
from permafrost.images.skipped import what_was_found
from permafrost.images.sources import ArrayImage, FileImage, ImageSource, ListedImage
from permafrost.images.splitting.groups import find_groups
from permafrost.images.tables.missing import MissingImages
from permafrost.images.tables.reading import read_table
from permafrost.options import as_path

ENDINGS: Final[dict[str, Literal["table", "arrays"]]] = {
    ".csv": "table",
    ".tsv": "table",
    ".npz": "arrays",
    ".npy": "arrays",
}
"""Endings of dataset files, in lower case, and what each file holds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset: one entry per image, in a stable order.

    Attributes:
        root: the absolute path of the folder, CSV or npz file.
        names: the path of each image relative to the root's folder; bytes that are not UTF-8 are surrogates (PEP 383).
            The name of an image in an npz file is like `X_train[17]`.
        labels: the index of each image's class.
        splits: the split of each image, or None if the dataset does not give it.
        class_names: the classes, sorted.
        skipped: names of other files and folders that were found, each with the reason why it is not used.
        arrays: the images themselves if they come from an npz file.
        pixels: what the values of the arrays meant, before they were converted.
        groups: the group of each image, or None for an image without one; None if there are no groups.
        grouped_by: what decides the groups, e.g. `column patient`; empty without groups.
        notes: what was understood that the user should know, one line each.
        warnings: what the user should check, one line each.
    """

    root: str
    names: tuple[str, ...]
    labels: tuple[int, ...]
    splits: tuple[str | None, ...]
    class_names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    arrays: tuple[np.ndarray, ...] | None = dataclasses.field(default=None, repr=False, compare=False)
    pixels: PixelRange | None = None
    groups: tuple[str | None, ...] | None = None
    grouped_by: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> ImageSource:
        """Return the image of entry `index`."""
        if self.arrays is not None:
            return ArrayImage(self.arrays[index])
        path = self.location(index)
        return FileImage(path) if self._missing is None else ListedImage(path, self.names[index], self._missing)

    @functools.cached_property
    def _missing(self) -> MissingImages | None:
        return MissingImages(os.path.dirname(self.root)) if file_kind(self.root) == "table" else None

    def location(self, index: int) -> str:
        """Return what errors call an image: its absolute path, or its name if it is in memory."""
        name = self.names[index]
        return name if self.arrays is not None else path_of(self.root, name)

    @property
    def name(self) -> str:
        """The name of the dataset: that of its folder, or of its file without the extension."""
        return Path(self.root).stem if file_kind(self.root) else Path(self.root).name


def path_of(root: str, name: str) -> str:
    """Return the path of the image `name` of the dataset at `root`."""
    return paths_of(root, [name])[0]


def paths_of(root: str, names: Iterable[str]) -> list[str]:
    """Return the paths of images of the dataset at `root`, whose kind is looked up once."""
    folder = os.path.dirname(root) if file_kind(root) == "table" else root
    return [os.path.join(folder, name) for name in names]


def file_kind(root: str) -> Literal["table", "arrays"] | None:
    """Return what the file of a dataset holds, by its ending in any case; None for a folder or another file.

    A folder may be called `photos.csv`. If the dataset no longer exists, its name decides.
    """
    kind = ENDINGS.get(os.path.splitext(root)[1].lower())
    return None if kind and os.path.isdir(root) else kind


def read_dataset(
    data: str | os.PathLike[str],
    options: ReadingOptions = RECOGNISED,
    *,
    min_classes: int = 2,
    pixels: PixelRange | None = None,
) -> Dataset:
    """Read the dataset at `data`: a folder with one folder per class, a CSV or an npz file.

    Args:
        data: the folder or file.
        options: how to read it.
        min_classes: the minimum number of classes; one is enough to evaluate a model.
        pixels: what the values of arrays meant in a dataset before, which holds for this one where they fit it.

    Raises:
        DatasetError: it does not exist, cannot be read, can be read in two ways, has no images, or has too few classes.
        OptionError: `data` is no path, an option is not for this kind of dataset, or there are no groups to split by.
    """
    root = os.path.abspath(as_path(data, "a dataset"))
    entries = find_groups(_read_entries(root, options, pixels), options.split_by)
    if min_classes > 1 and file_kind(root):
        require_classes(f"labels in {root}", entries.labels)
    dataset = _dataset(root, entries)
    if not dataset.names:
        raise DatasetError(
            f"no images in {root}",
            expected="images" if file_kind(root) else "folders of images, one folder per class",
            found=what_was_found(dataset.skipped),
        )
    if len(dataset.class_names) < min_classes:
        raise DatasetError(
            f"only one class in {root}",
            expected="at least two",
            found=dataset.class_names[0] + (f"; skipped {what_was_found(dataset.skipped)}" if dataset.skipped else ""),
            do=None if file_kind(root) else "put the images of each class into a folder of its own",
        )
    doubts = _lone_classes(dataset) if min_classes > 1 else ()
    return dataclasses.replace(dataset, warnings=(*dataset.warnings, *doubts))


def _lone_classes(dataset: Dataset, few: int = 10) -> tuple[str, ...]:
    """Return a warning if most classes have a single image, as where labels are numbers or names of images."""
    counts = collections.Counter(dataset.labels)
    lone = [label for label, count in counts.items() if count == 1]
    if len(lone) <= max(few, len(counts) / 2):
        return ()
    return (f"{len(lone):,} of {len(counts):,} classes have a single image, such as {dataset.class_names[lone[0]]}",)


def _read_entries(root: str, options: ReadingOptions, pixels: PixelRange | None) -> Entries:
    if os.path.isdir(root):
        return read_folder(root, options)
    if not os.path.exists(root):
        raise DatasetError(
            f"no such folder or file: {root}", do="give a folder with one folder per class, a .csv or an .npz"
        )
    kind = file_kind(root)
    if kind and options.layout is not None:
        raise OptionError("layout is for folders", expected="a folder", found=root)
    if kind == "table":
        return read_table(root, options)
    if kind == "arrays":
        return read_arrays(root, options, pixels=pixels)
    raise DatasetError(
        f"not a dataset: {root}",
        expected="a folder, a .csv or an .npz",
        found=f"a file that ends in {os.path.splitext(root)[1] or 'nothing'}",
        do="save a table as CSV UTF-8, arrays with numpy.savez, and unpack an archive",
    )


def _dataset(root: str, entries: Entries) -> Dataset:
    class_names = sorted(set(entries.labels)) if entries.class_names is None else entries.class_names
    index = {name: number for number, name in enumerate(class_names)}
    return Dataset(
        root=root,
        names=tuple(entries.names),
        labels=tuple(index[label] for label in entries.labels),
        splits=tuple(entries.splits),
        class_names=tuple(class_names),
        skipped=tuple(entries.skipped),
        arrays=None if entries.arrays is None else tuple(entries.arrays),
        pixels=entries.pixels,
        groups=None if entries.groups is None else tuple(entries.groups),
        grouped_by=entries.grouped_by,
        notes=tuple(entries.notes),
        warnings=tuple(entries.warnings),
    )
