"""Datasets in folders: one folder per class, with or without split folders around or inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from permafrost.errors import DatasetError, listed
from permafrost.images.entries import Entries
from permafrost.images.folders.class_levels import resembled
from permafrost.images.folders.layouts import Layout, given_layout
from permafrost.images.folders.recognition import recognised_layout
from permafrost.images.folders.tree import Folder
from permafrost.images.options import RECOGNISED, ReadingOptions, read_levels
from permafrost.images.skipped import WITHOUT_IMAGES


def read_folder(root: str, options: ReadingOptions = RECOGNISED) -> Entries:
    """Read a dataset from a folder with one folder per class, and with split folders around or inside these.

    Args:
        root: the folder.
        options: `layout` says what its levels of folders are; without it, they are recognised.

    Raises:
        DatasetError: the folder cannot be read or has no class folders, it can be read in two ways, or two classes
            differ only in upper and lower case.
    """
    tree = Folder(root)
    if tree.error:
        raise DatasetError(f"cannot read {root}: {tree.error}")
    levels = read_levels(options.layout) if options.layout else None
    entries = _entries(given_layout(tree, levels) if levels else recognised_layout(tree))
    if tree.images and not entries.names:
        raise DatasetError(
            f"no class folders in {root}" + (f" at the level that --layout {options.layout} says" if levels else ""),
            expected="one folder per class",
            found=f"{tree.images:,} images, such as {next(path for path, reason in tree.walk() if reason is None)}",
            do="put the images of each class into a folder of its own, or list them in a .csv",
        )
    _require_distinct(root, sorted(set(entries.labels)))
    return dataclasses.replace(entries, warnings=_unlike_classes(entries, levels))


def _entries(layout: Layout) -> Entries:
    """Return the images in the places of a layout; what is in a place without images is skipped."""
    names: list[str] = []
    labels: list[str] = []
    splits: list[str | None] = []
    skipped = list(layout.skipped)
    for place in layout.places:
        for path, reason in place.folder.walk():
            if reason is None:
                names.append(path)
            else:
                skipped.append((path, reason))
        labels += [place.label] * place.folder.images
        splits += [place.split] * place.folder.images
        if not place.folder.images:
            skipped.append((place.folder.path, place.folder.error or WITHOUT_IMAGES))
    return Entries(names=names, labels=labels, splits=splits, skipped=skipped, notes=layout.notes)


def _unlike_classes(entries: Entries, levels: Sequence[str] | None) -> list[str]:
    """Return a warning if the classes look like something else, unless the user has said that they are the classes."""
    classes = sorted(set(entries.labels))
    return [
        f"the class folders look like {kind}: {listed(classes)}; --layout says which level of folders are the classes"
        for kind in (() if levels else resembled(classes))
    ]


def _require_distinct(root: str, classes: Collection[str]) -> None:
    """Refuse classes whose folders are one on some disks."""
    seen: dict[str, str] = {}
    for name in classes:
        key = name.casefold()
        if key in seen:
            raise DatasetError(
                f"two class folders in {root} differ only in upper and lower case",
                found=f"{seen[key]} and {name}",
                do="give both the same name, or clearly different ones",
            )
        seen[key] = name
