"""Recognise the layout of a tree of folders, or refuse it if it has two readings."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from permafrost.errors import DatasetError, listed
from permafrost.images.folders.layouts import BESIDE_SPLITS, Layout, class_name
from permafrost.images.folders.tree import Folder
from permafrost.images.folders.wrappers import (
    Unwrapped,
    holds_folders,
    unwrapped,
    unwrapped_splits,
    with_images,
    wrapped,
)
from permafrost.images.splitting.names import combined_names, says_nothing, split_folders, split_named


def recognised_layout(root: Folder) -> Layout:
    """Return the layout of a tree: class folders, split folders with class folders, or split folders in class folders.

    Lone folders around all of these, or around the class folders of a split, are looked through. Folders without images
    do not count.

    Raises:
        DatasetError: the tree can be read in two ways, or has split folders without class folders.
    """
    layout, place = Layout(), root
    levels: tuple[str, ...] = ()
    while inner := wrapped(place):
        layout.skip(place, "not in a class folder", besides=[inner])
        place, levels = inner, (*levels, "*")
    if levels:
        layout.notes.append(f"read from {place.path}, the only folder with images")
    folders = with_images(place)
    names = [folder.name for folder in folders]
    if split_folders(names):
        _add_splits(layout, place, levels)
    elif any(_splits_in(folder) for folder in folders):
        _add_classes_with_splits(layout, place, levels)
    else:
        _add_classes(layout, place, levels)
    return layout


class Deeper(NamedTuple):
    """Folders in class folders that may be the classes, and the levels above them from the class folders on."""

    names: list[str]
    levels: tuple[str, ...]


def _add_splits(layout: Layout, place: Folder, levels: tuple[str, ...]) -> None:
    """Add the class folders of each split folder in `place`, and skip what is beside these."""
    named = split_folders(folder.name for folder in place.folders)
    splits = split_folders(folder.name for folder in with_images(place)) | named
    parts = unwrapped_splits([folder for folder in place.folders if folder.name in splits])
    _require_splits(place, splits, parts, levels)
    levels = (*levels, "split", *"*" * max(part.depth for part in parts))
    _require_class_level(place, [folder for part in parts for folder in part.classes], levels)
    layout.skip(place, BESIDE_SPLITS, besides=place.folders)
    layout.skipped += [
        (folder.path, folder.error or BESIDE_SPLITS) for folder in place.folders if folder.name not in splits
    ]
    for part in parts:
        for outer, inner in part.wrappers:
            layout.skip(outer, "not in a class folder", besides=[inner])
        layout.add(part.inner, ["class"], split=splits[part.folder.name])
    if spelled := [f"{name} is {split}" for name, split in splits.items() if name.lower() != split]:
        layout.notes.append("split folders: " + ", ".join(spelled))


def _require_splits(
    place: Folder, splits: Mapping[str, str], parts: Sequence[Unwrapped], levels: tuple[str, ...]
) -> None:
    """Refuse split folders that may be classes.

    They are split folders if nothing is beside them, or if they are of several splits and have classes in common.
    """
    if unread := [part.folder for part in parts if part.folder.error]:
        raise DatasetError(f"cannot read {os.path.join(place.root, unread[0].path)}: {unread[0].error}")
    folders = with_images(place)
    inside = [part.classes for part in parts]
    what, layout = f"split folders {listed(splits)}", (*levels, "split", "class")
    if not any(inside) and levels:
        what, layout = f"class {class_name(place)} with {what} in it", (*levels[:-1], "class", "split")
    elif not any(inside):
        what += " without class folders in them"
    elif all(folder.name in splits for folder in folders) or (len(set(splits.values())) > 1 and _agree(inside)):
        return
    else:
        what += " beside other folders"
    classes = f"classes {listed(map(class_name, folders))}"
    raise _two_readings(place, f"{classes} ({_shown(*levels, 'class')})", f"{what} ({_shown(*layout)})")


def _add_classes_with_splits(layout: Layout, place: Folder, levels: tuple[str, ...]) -> None:
    """Add class folders that each have split folders."""
    folders = with_images(place)
    splits = {folder.name: _splits_in(folder) for folder in folders}
    known = {split for found in splits.values() for split in found.values()}
    others = [
        below.name for folder in folders for below in with_images(folder) if below.name not in splits[folder.name]
    ]
    classes = f"classes {listed(map(class_name, folders))}"
    reading = f"{classes} with split folders in each ({_shown(*levels, 'class', 'split')})"
    if not all(splits.values()) or any(folder.own_images for folder in folders) or (others and len(known) == 1):
        raise _two_readings(place, f"{classes} ({_shown(*levels, 'class')})", reading)
    below: dict[str, list[Folder]] = defaultdict(list)
    for folder in folders:
        below[class_name(folder)] += [each for each in with_images(folder) if each.name in splits[folder.name]]
    if deeper := _deeper_classes(below):
        inner = (*levels, "*", "split", *deeper.levels[1:], "class")
        other = f"classes {listed(deeper.names)} in the split folders ({_shown(*inner)})"
        raise _two_readings(place, reading, other)
    layout.add(place, ["class", "split"])
    layout.notes.append("split folders: those in each class folder")


def _add_classes(layout: Layout, place: Folder, levels: tuple[str, ...]) -> None:
    """Add class folders, but no folder that has copies of its siblings in it."""
    folders = with_images(place)
    if combined := combined_names(folder.name for folder in folders):
        raise DatasetError(
            f"folders in {place.root} are named by more than a split",
            expected="class folders with split folders in them, or the other way round",
            found=listed(combined),
            do=f"sort them so, or give {_shown(*levels, 'class')} if these are classes",
        )
    direct = {class_name(folder) for folder in folders if folder.own_images}
    copies = [folder for folder in folders if _holds_copies(folder, direct)]
    _require_class_level(place, [folder for folder in folders if folder not in copies], levels)
    layout.add(place, ["class"])
    paths = {folder.path for folder in copies}
    layout.places = [each for each in layout.places if each.folder.path not in paths]
    layout.skipped += [(path, "holds the class folders once more") for path in sorted(paths)]


def _require_class_level(place: Folder, folders: Iterable[Folder], levels: Sequence[str]) -> None:
    """Refuse class folders whose own folders may be the classes, and class folders that are called like a split."""
    classes: dict[str, list[Folder]] = defaultdict(list)
    for folder in folders:
        classes[class_name(folder)].append(folder)
    if named := [name for name in classes if split_named(name)]:
        raise DatasetError(
            f"class folders in {place.root} are called like splits",
            expected="classes with other names",
            found=listed(named),
            do=f"rename them, or give {_shown(*levels, 'class')} if these are classes",
        )
    if deeper := _deeper_classes(classes):
        raise _two_readings(
            place,
            f"classes {listed(classes)} ({_shown(*levels, 'class')})",
            f"classes {listed(deeper.names)} ({_shown(*levels, *deeper.levels, 'class')})",
        )


def _deeper_classes(classes: Mapping[str, Sequence[Folder]]) -> Deeper | None:
    """Return the folders in class folders if these may be the classes, looking through lone folders."""
    if not any(with_images(folder) for folders in classes.values() for folder in folders):
        return None
    parts = {name: [unwrapped(folder) for folder in folders] for name, folders in classes.items()}
    inside = {name: {class_name(each) for part in found for each in part.classes} for name, found in parts.items()}
    deep = [name for name, folders in classes.items() if inside[name] and all(map(holds_folders, folders))]
    found = set().union(*inside.values())
    if len(found) < 2 or (all(len(names) == 1 for names in inside.values()) and len(found) == len(classes)):
        return None  # There is one class at most, or the same images are in one class in both readings.
    common = set.intersection(*(inside[name] for name in deep)) if deep else set()
    equal = len(classes) > 1 and len(set(map(frozenset, inside.values()))) == 1
    mostly = len(deep) > 1 and 2 * len(deep) >= len(classes) and len(common) > 1
    if len(deep) == len(classes) or equal or mostly or any(map(says_nothing, deep)):
        return Deeper(sorted(found), ("*",) * (1 + max(part.depth for found in parts.values() for part in found)))
    return None


def _holds_copies(folder: Folder, siblings: set[str]) -> bool:
    """Return whether a folder has folders that are called like several of its siblings, and nothing else."""
    names = {class_name(below) for below in with_images(folder)} - {class_name(folder)}
    return len(names) > 1 and not folder.own_images and names <= siblings


def _splits_in(folder: Folder) -> dict[str, str]:
    return split_folders(below.name for below in with_images(folder))


def _agree(classes: Sequence[Sequence[Folder]]) -> bool:
    """Return whether the split folders have most of their class folders in common; those without any do not count."""
    names = [{class_name(folder) for folder in folders} for folders in classes if folders]
    largest = max(names, key=len)
    return all(2 * len(each & largest) >= len(each) for each in names)


def _two_readings(place: Folder, one: str, other: str) -> DatasetError:
    return DatasetError(
        f"the folders in {place.root} can be read in two ways",
        found=f"{one}, or {other}",
        do="say which is right with --layout",
    )


def _shown(*levels: str) -> str:
    """Return a layout as it is typed in a shell."""
    text = "/".join(levels)
    return f"--layout '{text}'" if "*" in text else f"--layout {text}"
