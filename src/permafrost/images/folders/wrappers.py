"""Lone folders around class folders: archives and their unpacking add them, and they mean nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from permafrost.images.folders.layouts import class_name
from permafrost.images.folders.tree import Folder
from permafrost.images.splitting.names import says_nothing, split_folders, split_named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unwrapped:
    """A folder, and the folder in it that has the class folders.

    Attributes:
        folder: the folder.
        wrappers: the lone folders on the way, from the outside, each after the folder around it.
    """

    folder: Folder
    wrappers: tuple[tuple[Folder, Folder], ...]

    @property
    def inner(self) -> Folder:
        """The folder that has the class folders."""
        return self.wrappers[-1][1] if self.wrappers else self.folder

    @property
    def depth(self) -> int:
        """Number of lone folders on the way."""
        return len(self.wrappers)

    @property
    def classes(self) -> list[Folder]:
        """The class folders with images."""
        return with_images(self.inner)


def wrapped(folder: Folder) -> Folder | None:
    """Return the only folder with images in `folder` if it stands for `folder`, and is not a split folder."""
    lone = _lone(folder)
    if lone is None or not split_folders([lone.name]):
        return lone
    splits = split_folders(below.name for below in with_images(lone))
    return lone if len(set(splits.values())) > 1 else None


def unwrapped_splits(folders: Sequence[Folder]) -> list[Unwrapped]:
    """Look through lone folders in split folders, as far as the splits then have class folders in common."""
    parts = [unwrapped(folder) for folder in folders]
    several = [each for each in parts if len(each.classes) > 1]
    if not several:
        return parts
    model = min(several, key=lambda each: (each.depth, -len(each.classes)))
    names = {class_name(folder) for folder in model.classes}
    return [each if each is model else _fitting(each, names) for each in parts]


def unwrapped(folder: Folder) -> Unwrapped:
    """Look through all lone folders in a folder."""
    wrappers: list[tuple[Folder, Folder]] = []
    inner = folder
    while lone := _lone(inner) or _namesake(inner):
        wrappers.append((inner, lone))
        inner = lone
    return Unwrapped(folder=folder, wrappers=tuple(wrappers))


def _fitting(found: Unwrapped, names: set[str]) -> Unwrapped:
    """Look through lone folders down to the one with the most class folders that have one of `names`.

    If no class folder has one, only folders whose names cannot be those of classes are looked through.
    """
    depths = range(found.depth + 1)
    parts = [Unwrapped(folder=found.folder, wrappers=found.wrappers[:depth]) for depth in depths]
    common = [len(names & {class_name(folder) for folder in each.classes}) for each in parts]
    if any(common):
        return parts[common.index(max(common))]
    meaning = (
        depth for depth, (outer, lone) in enumerate(found.wrappers) if not (_is_no_class(lone) or _namesake(outer))
    )
    return parts[next(meaning, found.depth)]


def _lone(folder: Folder) -> Folder | None:
    """Return the only folder with images in `folder` if these are in folders, or if its name is not that of a class."""
    folders = with_images(folder)
    return folders[0] if len(folders) == 1 and (holds_folders(folders[0]) or _is_no_class(folders[0])) else None


def _namesake(folder: Folder) -> Folder | None:
    """Return the only folder with images in `folder` if it has the same name."""
    folders = with_images(folder)
    return folders[0] if len(folders) == 1 and folders[0].name.lower() == folder.name.lower() else None


def _is_no_class(folder: Folder) -> bool:
    return says_nothing(folder.name) or split_named(folder.name) is not None


def holds_folders(folder: Folder) -> bool:
    """Return whether a folder has images in folders, and next to none beside them."""
    return bool(with_images(folder)) and folder.own_images * 10 <= folder.images


def with_images(folder: Folder) -> list[Folder]:
    """Return the folders in a folder that have images in them or below."""
    return [below for below in folder.folders if below.images]
