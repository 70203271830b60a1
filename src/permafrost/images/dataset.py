"""What a dataset is: paths, labels, splits, class names.

Three forms are read: a folder with one folder a class, or with `train/`, `validation/` and `test/` folders of those; a
CSV with the columns `path,label[,split]`; an `.npz` with `X_train, y_train[, X_validation, y_validation, ...]`.
Labels belong here and never to the features: the same image may be listed under any number of labels.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import os
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.errors import DatasetError
from permafrost.images.decoding import (
    EXTENSIONS,
)
from permafrost.images.sources import ArrayImage, FileImage, ImageSource
from permafrost.images.splits import SPLIT_FOLDERS, SPLITS
from permafrost.machine import available_memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset: one entry an image, in a stable order.

    Attributes:
        root: the absolute path of the folder, CSV or npz file.
        names: for each image its path relative to the root's folder, any bytes, undecodable ones as surrogates
            (PEP 383); for an image in an npz file `X_train[17]`.
        labels: for each image its class's index.
        splits: for each image its split's name, or None where the dataset does not say.
        class_names: the classes, sorted.
        skipped: names of things that were found and are no images, with the reason.
        arrays: for an npz file its images.
    """

    root: str
    names: tuple[str, ...]
    labels: tuple[int, ...]
    splits: tuple[str | None, ...]
    class_names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    arrays: tuple[np.ndarray, ...] | None = dataclasses.field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> ImageSource:
        """The image of entry `index`."""
        if self.arrays is not None:
            return ArrayImage(self.arrays[index])
        return FileImage(path_of(self.root, self.names[index]))

    @property
    def name(self) -> str:
        """A name for what is made of this dataset: the folder's or file's own."""
        return Path(self.root).stem if _is_file(self.root, ".csv", ".npz") else Path(self.root).name


def path_of(root: str, name: str) -> str:
    """The path of the image `name` of the dataset at `root`."""
    return os.path.join(os.path.dirname(root) if _is_file(root, ".csv") else root, name)


def _is_file(root: str, *endings: str) -> bool:
    # A folder may be called `photos.csv`. Where nothing is left of a dataset, its name has to do.
    return root.endswith(endings) and not os.path.isdir(root)


def read_dataset(data: str | os.PathLike[str]) -> Dataset:
    """List the dataset at `data`.

    Raises:
        DatasetError: it is not there, has no images, or fewer than two classes.
    """
    root = os.path.abspath(os.fspath(data))
    if os.path.isdir(root):
        dataset = _read_folder(root)
    elif not os.path.exists(root):
        raise DatasetError(
            f"no such folder or file: {root}", do="give a folder with one folder a class, a .csv or an .npz"
        )
    elif root.endswith(".csv"):
        dataset = _read_csv(root)
    elif root.endswith(".npz"):
        dataset = _read_npz(root)
    else:
        raise DatasetError(f"not a dataset: {root}", expected="a folder, a .csv or an .npz", found="another file")
    if not dataset.names:
        raise DatasetError(
            f"no images in {root}",
            expected="folders of images, one folder a class",
            found=f"{len(dataset.skipped)} other things" if dataset.skipped else "none",
        )
    if len(dataset.class_names) < 2:
        raise DatasetError(
            f"only one class in {root}",
            expected="at least two",
            found=dataset.class_names[0],
            do="put the images of each class into a folder of its own",
        )
    return dataset


def _read_folder(root: str) -> Dataset:
    with _dataset_errors(root):
        children = sorted(os.scandir(root), key=lambda entry: entry.name)
    split_folders = [entry.name for entry in children if entry.name.lower() in SPLIT_FOLDERS and _has_folders(entry)]
    entries: list[tuple[str, str, str | None]] = []
    aside: list[tuple[str, str]] = []
    if "train" in {SPLIT_FOLDERS[name.lower()] for name in split_folders}:
        for split_folder in split_folders:
            split = SPLIT_FOLDERS[split_folder.lower()]
            _collect(root, split_folder, split, entries, aside)
        strays = [entry.name for entry in children if entry.name not in split_folders]
        aside += [(name, "hidden" if _hidden(name) else "beside the split folders") for name in strays]
    else:
        _collect(root, "", None, entries, aside)
    return _dataset(root, entries, aside)


def _has_folders(entry: os.DirEntry[str]) -> bool:
    """Whether a folder holds folders: `train/` with classes in it is a split, with images in it a class."""
    if not _is_folder(entry):
        return False
    with _dataset_errors(entry.path), os.scandir(entry) as children:
        return any(_is_folder(child) and not _hidden(child.name) for child in children)


def _collect(
    root: str,
    folder: str,
    split: str | None,
    entries: list[tuple[str, str, str | None]],
    aside: list[tuple[str, str]],
) -> None:
    """Add the images of `folder`, which has one folder a class, as (name, class, split)."""
    with _dataset_errors(root):
        children = sorted(os.scandir(os.path.join(root, folder)), key=lambda entry: entry.name)
    for child in children:
        name = os.path.join(folder, child.name)
        if _hidden(child.name):
            aside.append((name, "hidden"))
        elif _is_folder(child):
            images = list(_walk(root, name, aside))
            entries += [(image, child.name, split) for image in images]
            if not images:
                aside.append((name, "a class folder without images"))
        else:
            aside.append((name, "not in a class folder"))


def _walk(root: str, folder: str, aside: list[tuple[str, str]]) -> Iterator[str]:
    """Names of the images below `folder`, sorted; what is none is skipped. Linked folders are not entered."""
    try:
        children = sorted(os.scandir(os.path.join(root, folder)), key=lambda entry: entry.name)
    except OSError as error:
        aside.append((folder, error.strerror or str(error)))
        return
    for child in children:
        name = os.path.join(folder, child.name)
        if _hidden(child.name):
            aside.append((name, "hidden"))
        elif child.is_dir(follow_symlinks=False):
            before = len(aside)
            images = list(_walk(root, name, aside))
            yield from images
            if not images and len(aside) == before:
                aside.append((name, "an empty folder"))
        elif os.path.splitext(child.name)[1].lower() not in EXTENSIONS:
            aside.append((name, "not an image by its name"))
        elif _is_folder(child):
            aside.append((name, "a link to a folder"))
        else:
            yield name


def _read_csv(path: str) -> Dataset:
    with _dataset_errors(path), open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        if not {"path", "label"} <= columns:
            raise DatasetError(
                f"columns missing in {path}",
                expected="path,label and, if you like, split",
                found=",".join(reader.fieldnames or ()) or "an empty file",
            )
        try:
            entries = [_csv_entry(path, reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise DatasetError(f"cannot read {path}, line {reader.line_num}", found=str(error)) from error
    return _dataset(path, entries, [])


def _csv_entry(path: str, line: int, row: dict[str, str | None]) -> tuple[str, str, str | None]:
    name, label, split = (row.get("path") or ""), (row.get("label") or "").strip(), (row.get("split") or "").strip()
    if not name or not label:
        missing = "path" if not name else "label"
        raise DatasetError(f"no {missing} in {path}, line {line}", do=f"fill in the {missing} or remove the line")
    if split and split.lower() not in SPLIT_FOLDERS:
        raise DatasetError(f"unknown split in {path}, line {line}", expected=", ".join(SPLITS), found=split)
    return name, label, SPLIT_FOLDERS[split.lower()] if split else None


def _read_npz(path: str) -> Dataset:
    try:
        with zipfile.ZipFile(path) as parts, np.load(path, allow_pickle=False) as file:
            for part in parts.infolist():
                _require_room(path, parts, part)
            stored = {key: file[key] for key in file.files}
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"cannot read {path}", found=str(error), do="save it with numpy.savez") from error
    pieces: list[tuple[str, str | None, np.ndarray, np.ndarray]] = []
    for key in stored:
        if key != "X" and not key.startswith("X_"):
            continue
        suffix = key[1:]
        if suffix and suffix[1:].lower() not in SPLIT_FOLDERS:
            raise DatasetError(f"unknown split in {path}", expected="X_train, X_validation, X_test", found=key)
        if f"y{suffix}" not in stored:
            raise DatasetError(f"labels missing in {path}", expected=f"y{suffix} beside {key}", found=", ".join(stored))
        images, labels = stored[key], stored[f"y{suffix}"]
        _check_npz(path, key, images, labels)
        split = SPLIT_FOLDERS[suffix[1:].lower()] if suffix else None
        pieces.append((key, split, images, labels))
    if not pieces:
        raise DatasetError(f"no images in {path}", expected="X_train and y_train", found=", ".join(stored) or "none")
    return _npz_dataset(path, pieces, stored.get("class_names"))


def _require_room(path: str, parts: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    """Refuse an array that claims more than its part of the file has, or more memory than this process can take.

    Raises:
        DatasetError: it does.
    """
    with parts.open(part) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        claimed, held = math.prod(shape) * dtype.itemsize, part.file_size - file.tell()
    memory = available_memory()
    if not dtype.hasobject and claimed > held:
        raise DatasetError(
            f"{part.filename} in {path} claims more than it has", expected=f"{held:,} bytes", found=f"{claimed:,}"
        )
    if claimed > memory:
        raise DatasetError(
            f"{part.filename} in {path} does not fit into memory",
            expected=f"at most {memory:,} bytes",
            found=f"{claimed:,}",
            do="save the images as files",
        )


def _check_npz(path: str, key: str, images: np.ndarray, labels: np.ndarray) -> None:
    if images.ndim not in (3, 4):
        raise DatasetError(f"{key} in {path} holds no images", expected="shape (n, h, w, 3)", found=images.shape)
    if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in "iuUS":
        raise DatasetError(
            f"labels of {key} in {path} are not one class an image",
            expected=f"{len(images)} whole numbers or names, shape ({len(images)},)",
            found=f"{labels.dtype} {labels.shape}",
        )
    if labels.dtype.kind in "US":
        (missing,) = (labels.reshape(-1) == labels.dtype.type()).nonzero()
        if len(missing):
            raise DatasetError(
                f"{len(missing):,} labels of {key} in {path} are empty, the first is number {missing[0]}",
                expected="a class's name for each image",
                do="fill them in, or leave those images out",
            )


def _npz_dataset(
    path: str, pieces: list[tuple[str, str | None, np.ndarray, np.ndarray]], class_names: np.ndarray | None
) -> Dataset:
    names: list[str] = []
    splits: list[str | None] = []
    arrays: list[np.ndarray] = []
    labels: list[Any] = []
    for key, split, images, targets in pieces:
        names += [f"{key}[{i}]" for i in range(len(images))]
        splits += [split] * len(images)
        arrays += list(images)
        labels += [os.fsdecode(label) if isinstance(label, bytes) else label for label in targets.reshape(-1).tolist()]
    if len({type(label) for label in labels}) > 1:
        raise DatasetError(f"labels in {path} are numbers in one split and names in another", expected="the same kind")
    classes = sorted(set(labels))
    shown = [str(label) for label in classes]
    if class_names is not None and classes and isinstance(classes[0], int):
        if class_names.ndim != 1 or classes[0] < 0 or classes[-1] >= len(class_names):
            raise DatasetError(
                f"class_names in {path} do not fit the labels",
                expected=f"a name for each of {classes[0]} to {classes[-1]}",
                found=f"shape {class_names.shape}",
            )
        shown = [str(class_names[label]) for label in classes]
    _check_case(path, shown)
    index = {label: i for i, label in enumerate(classes)}
    return Dataset(
        root=path,
        names=tuple(names),
        labels=tuple(index[label] for label in labels),
        splits=tuple(splits),
        class_names=tuple(shown),
        arrays=tuple(arrays),
    )


def _dataset(root: str, entries: list[tuple[str, str, str | None]], aside: list[tuple[str, str]]) -> Dataset:
    class_names = sorted({label for _, label, _ in entries})
    _check_case(root, class_names)
    index = {label: i for i, label in enumerate(class_names)}
    return Dataset(
        root=root,
        names=tuple(name for name, _, _ in entries),
        labels=tuple(index[label] for _, label, _ in entries),
        splits=tuple(split for _, _, split in entries),
        class_names=tuple(class_names),
        skipped=tuple(aside),
    )


def _check_case(root: str, class_names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in class_names:
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise DatasetError(
                f"two classes in {root} differ at most in upper and lower case",
                found=f"{seen[folded]} and {name}",
                do="give both the same name, or clearly different ones",
            )
        seen[folded] = name


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


@contextlib.contextmanager
def _dataset_errors(root: str) -> Iterator[None]:
    """Turn the operating system's refusal to read a dataset into one clear line."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"cannot read {root}: {error.strerror or error}") from error
