"""Folders of images: the images below a folder, and datasets with one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator

from permafrost.images.decoding import EXTENSIONS
from permafrost.images.entries import Entries, read_errors
from permafrost.images.split_names import split_named


def walk_images(root: str, folder: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield the images below a folder at any depth, and everything else there with the reason for skipping it.

    Hidden files and folders are skipped, and links to folders are not followed. Files are not opened.

    Args:
        root: the folder to which names are relative.
        folder: the folder to walk, relative to `root`.

    Yields:
        The name relative to `root`, and None for an image or the reason for anything else; sorted within each folder.
    """
    try:
        children = _children(os.path.join(root, folder))
    except OSError as error:
        yield folder, error.strerror or str(error)
        return
    for child in children:
        name = os.path.join(folder, child.name)
        if _is_hidden(child):
            yield name, "hidden"
        elif child.is_dir(follow_symlinks=False):
            below = list(walk_images(root, name))
            yield from below or [(name, "an empty folder")]
        elif os.path.splitext(child.name)[1].lower() not in EXTENSIONS:
            yield name, "not an image file name"
        elif _is_folder(child):
            yield name, "a link to a folder"
        else:
            yield name, None


def read_folder(root: str) -> Entries:
    """Read a dataset from a folder with one folder per class, or with split folders that contain such folders.

    The folders of a root are split folders if one of them is called `train` or the like and has folders in it.

    Raises:
        DatasetError: a folder cannot be read.
    """
    with read_errors(root):
        children = _children(root)
    splits = {child.name: split for child in children if (split := split_named(child.name)) and _has_folders(child)}
    if "train" not in splits.values():
        return _joined([_read_class_folders(root, "", None)])
    others = [child for child in children if child.name not in splits]
    skipped = [(child.name, "hidden" if _is_hidden(child) else "beside the split folders") for child in others]
    read = [_read_class_folders(root, name, split) for name, split in splits.items()]
    return _joined([*read, Entries(names=(), labels=(), splits=(), skipped=skipped)])


def _read_class_folders(root: str, folder: str, split: str | None) -> Entries:
    """Read the images of `folder`, which has one folder per class."""
    names: list[str] = []
    labels: list[str] = []
    skipped: list[tuple[str, str]] = []
    with read_errors(root):
        children = _children(os.path.join(root, folder))
    for child in children:
        name = os.path.join(folder, child.name)
        if _is_hidden(child):
            skipped.append((name, "hidden"))
        elif not _is_folder(child):
            skipped.append((name, "not in a class folder"))
        else:
            before = len(names)
            for below, reason in walk_images(root, name):
                if reason is None:
                    names.append(below)
                else:
                    skipped.append((below, reason))
            labels += [child.name] * (len(names) - before)
            if len(names) == before:
                skipped.append((name, "a class folder without images"))
    return Entries(names=names, labels=labels, splits=[split] * len(names), skipped=skipped)


def _joined(parts: list[Entries]) -> Entries:
    return Entries(
        names=[name for part in parts for name in part.names],
        labels=[label for part in parts for label in part.labels],
        splits=[split for part in parts for split in part.splits],
        skipped=[each for part in parts for each in part.skipped],
    )


def _children(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as children:
        return sorted(children, key=lambda child: child.name)


def _has_folders(folder: os.DirEntry[str]) -> bool:
    """Return whether a folder holds folders: `train/` with classes in it is a split, with images in it a class."""
    if not _is_folder(folder):
        return False
    with read_errors(folder.path):
        return any(_is_folder(child) and not _is_hidden(child) for child in _children(folder.path))


def _is_hidden(child: os.DirEntry[str]) -> bool:
    return child.name.startswith(".")


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # A link that leads to itself.
        return False
