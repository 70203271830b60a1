"""Recognise the layout of a tree of folders, or refuse it if it has two readings."""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from permafrost.errors import DatasetError
from permafrost.images.layouts import BESIDE_SPLITS, Layout, class_name
from permafrost.images.split_names import combined_names, split_folders, split_named
from permafrost.images.tree import Folder


def recognised_layout(root: Folder) -> Layout:
    """Return the layout of a tree: class folders, split folders with class folders, or split folders in class folders.

    Lone folders around all of these, or around the class folders of a split, are looked through. Folders without images
    do not count.

    Raises:
        DatasetError: the tree can be read in two ways, or has split folders without class folders.
    """
    layout, place = Layout(), root
    levels: tuple[str, ...] = ()
    while inner := _wrapped(place):
        layout.skip(place, "not in a class folder", besides=[inner])
        place, levels = inner, (*levels, "*")
    if levels:
        layout.notes.append(f"read from {place.path}, the only folder with images")
    folders = _with_images(place)
    names = [folder.name for folder in folders]
    if split_folders(names):
        _add_splits(layout, place, levels)
    elif any(_splits_in(folder) for folder in folders):
        _add_classes_with_splits(layout, place, levels)
    else:
        _add_classes(layout, place, levels)
    return layout


def _add_splits(layout: Layout, place: Folder, levels: tuple[str, ...]) -> None:
    """Add the class folders of each split folder in `place`, and skip what is beside these."""
    named = split_folders(folder.name for folder in place.folders)
    splits = split_folders(folder.name for folder in _with_images(place)) | named
    parts = _unwrapped([folder for folder in place.folders if folder.name in splits])
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
    if any(name.lower() != split for name, split in splits.items()):
        layout.notes.append("splits: " + ", ".join(f"{name} is {split}" for name, split in splits.items()))


def _require_splits(place: Folder, splits: Mapping[str, str], parts: Sequence[_Part], levels: tuple[str, ...]) -> None:
    """Refuse split folders that may be classes.

    They are split folders if nothing is beside them, or if they are of several splits and have classes in common.
    """
    if unread := [part.folder for part in parts if part.folder.error]:
        raise DatasetError(f"cannot read {os.path.join(place.root, unread[0].path)}: {unread[0].error}")
    folders = _with_images(place)
    inside = [part.classes for part in parts]
    if not any(inside):
        what = f"split folders {_listed(splits)} without class folders in them"
    elif all(folder.name in splits for folder in folders) or (len(set(splits.values())) > 1 and _agree(inside)):
        return
    else:
        what = f"split folders {_listed(splits)} beside other folders"
    classes = f"classes {_listed(map(class_name, folders))}"
    raise _two_readings(
        place, f"{classes} ({_shown(*levels, 'class')})", f"{what} ({_shown(*levels, 'split', 'class')})"
    )


def _add_classes_with_splits(layout: Layout, place: Folder, levels: tuple[str, ...]) -> None:
    """Add class folders that each have split folders."""
    folders = _with_images(place)
    splits = {folder.name: _splits_in(folder) for folder in folders}
    known = {split for found in splits.values() for split in found.values()}
    others = [
        below.name for folder in folders for below in _with_images(folder) if below.name not in splits[folder.name]
    ]
    classes = f"classes {_listed(map(class_name, folders))}"
    reading = f"{classes} with split folders in each ({_shown(*levels, 'class', 'split')})"
    if not all(splits.values()) or any(folder.own_images for folder in folders) or (others and len(known) == 1):
        raise _two_readings(place, f"{classes} ({_shown(*levels, 'class')})", reading)
    below: dict[str, list[Folder]] = defaultdict(list)
    for folder in folders:
        below[class_name(folder)] += [each for each in _with_images(folder) if each.name in splits[folder.name]]
    if deeper := _deeper_classes(below):
        other = f"classes {_listed(deeper)} in the split folders ({_shown(*levels, '*', 'split', 'class')})"
        raise _two_readings(place, reading, other)
    layout.add(place, ["class", "split"])
    layout.notes.append("splits: the split folders in each class folder")


def _add_classes(layout: Layout, place: Folder, levels: tuple[str, ...]) -> None:
    """Add class folders, but no folder that has copies of its siblings in it."""
    folders = _with_images(place)
    if combined := combined_names(folder.name for folder in folders):
        raise DatasetError(
            f"folders in {place.root} are named by more than a split",
            expected="class folders with split folders in them, or the other way round",
            found=_listed(combined),
            do=f"sort them so, or give {_shown(*levels, 'class')} if these are classes",
        )
    names = {class_name(folder) for folder in folders}
    copies = [folder for folder in folders if _holds_copies(folder, names)]
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
            found=_listed(named),
            do=f"rename them, or give {_shown(*levels, 'class')} if these are classes",
        )
    if deeper := _deeper_classes(classes):
        raise _two_readings(
            place,
            f"classes {_listed(classes)} ({_shown(*levels, 'class')})",
            f"classes {_listed(deeper)} ({_shown(*levels, '*', 'class')})",
        )


def _deeper_classes(classes: Mapping[str, Sequence[Folder]]) -> list[str]:
    """Return the names of the folders in class folders if these may be the classes, else none."""
    inside = {
        name: {class_name(below) for folder in folders for below in _with_images(folder)}
        for name, folders in classes.items()
    }
    deep = [name for name, folders in classes.items() if inside[name] and all(map(_holds_folders, folders))]
    found = set().union(*inside.values())
    if len(found) < 2 or (all(len(names) == 1 for names in inside.values()) and len(found) == len(classes)):
        return []  # There is one class at most, or the same images are in one class in both readings.
    common = set.intersection(*(inside[name] for name in deep)) if deep else set()
    equal = len(classes) > 1 and len(set(map(frozenset, inside.values()))) == 1
    mostly = len(deep) > 1 and 2 * len(deep) >= len(classes) and len(common) > 1
    return sorted(found) if len(deep) == len(classes) or equal or mostly else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """A split folder, and the folder in it that has the class folders.

    Attributes:
        folder: the split folder.
        wrappers: each lone folder on the way with the folder around it, from the outside.
    """

    folder: Folder
    wrappers: tuple[tuple[Folder, Folder], ...]

    @property
    def inner(self) -> Folder:
        return self.wrappers[-1][1] if self.wrappers else self.folder

    @property
    def depth(self) -> int:
        return len(self.wrappers)

    @property
    def classes(self) -> list[Folder]:
        return _with_images(self.inner)


def _unwrapped(folders: Sequence[Folder]) -> list[_Part]:
    """Look through lone folders in split folders, but not through one that is called like a class of another split."""
    inside = [{class_name(below) for below in _part(folder, set()).classes} for folder in folders]
    known = set().union(*(names for names in inside if len(names) > 1))
    return [_part(folder, known) for folder in folders]


def _part(folder: Folder, known: set[str]) -> _Part:
    wrappers: list[tuple[Folder, Folder]] = []
    inner = folder
    while (lone := _lone(inner)) and class_name(lone) not in known:
        wrappers.append((inner, lone))
        inner = lone
    return _Part(folder=folder, wrappers=tuple(wrappers))


def _wrapped(folder: Folder) -> Folder | None:
    """Return the only folder with images in `folder` if it stands for `folder`, and is no split folder."""
    lone = _lone(folder)
    if lone is None or not split_folders([lone.name]) or len(set(_splits_in(lone).values())) > 1:
        return lone
    return None


def _lone(folder: Folder) -> Folder | None:
    """Return the only folder with images in `folder` if its images are in folders, else None."""
    folders = _with_images(folder)
    return folders[0] if len(folders) == 1 and _holds_folders(folders[0]) else None


def _holds_folders(folder: Folder) -> bool:
    """Return whether a folder has images in folders, and next to none beside them."""
    return bool(_with_images(folder)) and folder.own_images * 10 <= folder.images


def _holds_copies(folder: Folder, siblings: set[str]) -> bool:
    names = {class_name(below) for below in _with_images(folder)}
    return len(names) > 1 and not folder.own_images and names <= siblings - {class_name(folder)}


def _splits_in(folder: Folder) -> dict[str, str]:
    return split_folders(below.name for below in _with_images(folder))


def _with_images(folder: Folder) -> list[Folder]:
    """Return the folders in a folder that have images in them or below."""
    return [below for below in folder.folders if below.images]


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


def _listed(names: Iterable[str], maximum: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:maximum]) + (f" and {len(names) - maximum} more" if len(names) > maximum else "")
