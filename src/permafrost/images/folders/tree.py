"""A folder and all that is below it: folders, images, and the reason why anything else is not an image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from permafrost.images.decoding import EXTENSIONS
from permafrost.images.formats.signatures import starts_as_image
from permafrost.images.splitting.names import split_named

_SYSTEM_FOLDERS: Final = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
"""Folders that operating systems and disks add, in lower case; some hold small copies of the images."""

_LINK: Final = "a link to a folder"
_MAXIMUM_DEPTH: Final = 100
"""Maximum number of folders inside each other."""


class Folder:
    """A folder that has been read, with all folders below it.

    Hidden files and folders are not looked at. Links to folders are followed in the root, in split folders, and in
    folders that hold nothing but links, unless they lead to a folder that they are in.

    Attributes:
        root: the path to which the other paths are relative.
        path: the folder's path; empty for the root itself.
        name: the last part of the path.
        children: the path of each child, in order of the names, with the folder that it is, None for an image, or the
            reason why it is not an image.
        folders: the folders directly in it.
        own_images: number of images directly in it.
        images: number of images in it and below.
        error: why the folder cannot be read, or None.
    """

    def __init__(self, root: str, path: str = "") -> None:
        self.root = root
        self.path = path
        self.name = os.path.basename(path)
        self.children: list[tuple[str, Folder | str | None]] = []
        self.error: str | None = None
        try:
            self._read()
        except OSError as error:
            self.error = error.strerror or str(error)
        self.folders = [found for _, found in self.children if isinstance(found, Folder)]
        self.own_images = sum(found is None for _, found in self.children)
        self.images: int = self.own_images + sum(folder.images for folder in self.folders)

    def walk(self) -> Iterator[tuple[str, str | None]]:
        """Yield the path of each image below with None, and of anything else with the reason for skipping it."""
        for path, found in self.children:
            if not isinstance(found, Folder):
                yield path, found
            elif found.children:
                yield from found.walk()
            else:
                yield path, found.error or "an empty folder"

    def _read(self) -> None:
        if self.path.count(os.sep) >= _MAXIMUM_DEPTH:
            self.error = f"a folder inside {_MAXIMUM_DEPTH} others"
            return
        prefix = os.path.join(self.path, "")
        with os.scandir(os.path.join(self.root, self.path)) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith("."):
                self.children.append((path, "hidden"))
            elif not entry.is_dir(follow_symlinks=False):
                self.children.append((path, _reason(entry)))
            elif entry.name.lower() in _SYSTEM_FOLDERS:
                self.children.append((path, "a system folder"))
            else:
                self.children.append((path, Folder(self.root, path)))
        self._follow_links()

    def _follow_links(self) -> None:
        links = [position for position, (_, found) in enumerate(self.children) if found is _LINK]
        if not links:
            return
        others = any(found is None or isinstance(found, Folder) for _, found in self.children)
        if others and self.path and not split_named(self.name):
            return
        for position in links:
            path, _ = self.children[position]
            if not self._is_inside(os.path.join(self.root, path)):
                self.children[position] = path, Folder(self.root, path)

    def _is_inside(self, path: str) -> bool:
        """Return whether the folder at `path` is this folder or one that this folder is in."""
        parts = self.path.split(os.sep)
        places = [self.root, *(os.path.join(self.root, *parts[:count]) for count in range(1, len(parts) + 1))]
        outer = os.path.join(os.path.realpath(path), "")
        return any(os.path.join(os.path.realpath(place), "").startswith(outer) for place in places)


def _reason(entry: os.DirEntry[str]) -> str | None:
    """Return why a file or a link is not an image; None for an image. It is opened if it has no extension."""
    if entry.is_symlink() and os.path.isdir(entry.path):
        return _LINK
    extension = os.path.splitext(entry.name)[1].lower()
    if extension in EXTENSIONS:
        return None
    if len(extension) > 1:
        return f"not an image ({extension})"
    try:
        return None if starts_as_image(entry.path) else "not an image (no extension)"
    except OSError as error:
        return error.strerror or str(error)
