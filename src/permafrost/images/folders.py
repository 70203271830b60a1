"""Datasets in folders: one folder per class, with or without split folders around or inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from permafrost.errors import DatasetError
from permafrost.images.class_levels import resembled
from permafrost.images.entries import Entries
from permafrost.images.layouts import Layout, given_layout
from permafrost.images.options import RECOGNISED, ReadingOptions, read_levels
from permafrost.images.recognition import recognised_layout
from permafrost.images.tree import Folder


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
    if tree.own_images and tree.images == tree.own_images:
        raise DatasetError(
            f"no class folders in {root}",
            expected="one folder per class",
            found=f"{tree.own_images:,} images",
            do="put the images of each class into a folder of its own, or list them in a .csv",
        )
    given = options.layout is not None
    layout = given_layout(tree, read_levels(options.layout)) if options.layout else recognised_layout(tree)
    entries = _entries(layout)
    classes = sorted(set(entries.labels))
    _require_distinct(root, classes)
    return entries if given else dataclasses.replace(entries, warnings=_warnings(classes))


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
            skipped.append((place.folder.path, place.folder.error or "a class folder without images"))
    return Entries(names=names, labels=labels, splits=splits, skipped=skipped, notes=layout.notes)


def _warnings(classes: Collection[str]) -> list[str]:
    return [
        f"the class folders look like {kind}, not like classes: {', '.join(list(classes)[:4])}; "
        "--layout says which level of folders are the classes"
        for kind in resembled(classes)
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
