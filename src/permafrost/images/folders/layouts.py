"""Layouts: which folder of a tree is a class and which is a split, level by level."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from permafrost.errors import DatasetError, listed
from permafrost.images.folders.tree import Folder
from permafrost.images.splitting.names import split_folders

BESIDE_SPLITS: Final = "beside the split folders"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A folder all of whose images belong to one class, and to one split if it is known."""

    folder: Folder
    label: str
    split: str | None


@dataclasses.dataclass(kw_only=True)
class Layout:
    """What the folders of a tree are. Everything in the tree is below a place or skipped.

    Attributes:
        places: the folders with the images of each class and split.
        skipped: what is beside them, each path with the reason.
        notes: what was understood, one line each.
    """

    places: list[Place] = dataclasses.field(default_factory=list)
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, folder: Folder, levels: Sequence[str], *, label: str | None = None, split: str | None = None) -> None:
        """Add a folder whose folders are of the first of `levels`, and so on; it is a place if there are none.

        Args:
            folder: the folder.
            levels: `class`, `split` or `*` each.
            label: the class that is known from the folders above, or None.
            split: likewise the split.
        """
        if not levels:
            assert label is not None, "the class is one of the levels"
            self.places.append(Place(folder=folder, label=label, split=split))
            return
        level = levels[0]
        splits = split_folders(each.name for each in folder.folders) if level == "split" else {}
        for path, found in folder.children:
            if not isinstance(found, Folder):
                self.skipped.append((path, found or f"not in a {'class' if 'class' in levels else 'split'} folder"))
            elif level == "*":
                self.add(found, levels[1:], label=label, split=split)
            elif level == "class":
                self.add(found, levels[1:], label=class_name(found), split=split)
            elif found.name in splits:
                self.add(found, levels[1:], label=label, split=splits[found.name])
            else:
                self.skipped.append((path, found.error or BESIDE_SPLITS))
        if folder.path and not folder.children:
            self.skipped.append((folder.path, folder.error or "an empty folder"))

    def skip(self, folder: Folder, reason: str, *, besides: Iterable[Folder] = ()) -> None:
        """Skip everything in a folder except the folders `besides`: images for `reason`, anything else for its own."""
        paths = {each.path for each in besides}
        for path, found in folder.children:
            if not isinstance(found, Folder):
                self.skipped.append((path, found or reason))
            elif path not in paths:
                inside = [(below, why or reason) for below, why in found.walk()]
                self.skipped += inside or [(path, found.error or "an empty folder")]


def class_name(folder: Folder) -> str:
    """Return the class that a folder's name means: the name in the Unicode form NFC."""
    return unicodedata.normalize("NFC", folder.name)


def given_layout(root: Folder, levels: Sequence[str]) -> Layout:
    """Return the layout that a user has given.

    Raises:
        DatasetError: there are no split folders where the layout has them.
    """
    layout = Layout()
    layout.add(root, levels)
    if "split" in levels and not layout.places:
        raise DatasetError(
            f"no split folders in {root.root}",
            expected=f"the layout {'/'.join(levels)}, with split folders such as train, validation, test",
            found=listed(folder.name for folder in root.folders) or "no folders",
        )
    return layout
