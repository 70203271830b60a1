"""Images of a table that are missing: where they were looked for, and where one is that may be meant."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import Final

from permafrost.images.decoding import EXTENSIONS

_SEARCHES: Final = 5
"""How many images of one folder and ending are searched for; for others only what helped there is tried."""

_ENDINGS: Final = (*sorted(EXTENSIONS), *sorted(ending.upper() for ending in EXTENSIONS))
_COMMON_ENDINGS: Final = (".jpg", ".png", ".jpeg", ".JPG", ".PNG")
"""Endings that are tried in other folders."""

_PARENTS: Final = 3
"""How many folders above a table's are searched."""

_BESIDE: Final = 8
"""How many folders beside a table are searched, of those among the first `_ENTRIES` entries there."""

_ENTRIES: Final = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Change:
    """What may be wrong with paths.

    Attributes:
        text: the change in words, the same for all paths.
        folder: the folder to which paths would be relative.
        start: the start of paths that would be left out.
        ending: the ending that they would have instead of that of an image, or beside another one.
        lower: whether they would be in lower case.
    """

    text: str
    folder: str
    start: str = ""
    ending: str = ""
    lower: bool = False

    def helps(self, path: str) -> bool:
        """Return whether a path leads to a file if it is changed in this way."""
        changed = path.removeprefix(self.start)
        if self.ending:
            stem, ending = os.path.splitext(changed)
            changed = (stem if ending.lower() in EXTENSIONS else changed) + self.ending
        return os.path.exists(os.path.join(self.folder, changed.lower() if self.lower else changed))


class MissingImages:
    """Describes the missing images of a table. Threads may share one object.

    Args:
        folder: the folder of the table, to which paths are relative.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._helped: dict[tuple[str, str], list[_Change]] = collections.defaultdict(list)
        self._searches: dict[tuple[str, str], int] = collections.defaultdict(int)

    def describe(self, path: str) -> str:
        """Say where an image was looked for, and where one is that may be meant.

        The text does not name the image, so that it is the same for all images that are missing for one reason.

        Args:
            path: the path in the table, which does not exist.
        """
        where = "no such file" if os.path.isabs(path) else f"no such file in {self._folder}"
        change = self._change(path)
        return f"{where}; there is one {change.text}" if change else where

    def _change(self, path: str) -> _Change | None:
        key = os.path.dirname(path), os.path.splitext(path)[1].lower()
        change = next((each for each in self._helped[key] if each.helps(path)), None)
        if change is None and self._searches[key] < _SEARCHES:
            self._searches[key] += 1
            change = next((each for each in _changes(self._folder, path) if each.helps(path)), None)
            if change is not None:
                self._helped[key].append(change)
        return change


def _changes(folder: str, path: str) -> Iterator[_Change]:
    """Yield what may be wrong with a path: its ending, the folder that it is relative to, its start, its case."""
    for ending in _ENDINGS:
        yield _Change(text=f"that ends in {ending}", folder=folder, ending=ending)
    for other in [] if os.path.isabs(path) else _other_folders(folder):
        relative = "but paths are relative to the table's folder"
        yield _Change(text=f"in {other}, {relative}", folder=other)
        for ending in _COMMON_ENDINGS:
            yield _Change(text=f"in {other} that ends in {ending}, {relative}", folder=other, ending=ending)
    parts = path.split("/")
    for first in range(1, len(parts)):
        start = "/".join(parts[:first]) + "/"
        if parts[first]:
            yield _Change(text=f"without {start}", folder=folder, start=start)
    yield _Change(text="in lower case", folder=folder, lower=True)


def _other_folders(folder: str) -> Iterator[str]:
    """Yield folders that paths may be relative to by mistake: the current one, some above the table, some beside it."""
    yield os.getcwd()
    above = folder
    for _ in range(_PARENTS):
        above = os.path.dirname(above)
        yield above
    with os.scandir(folder) as entries:
        yield from sorted(entry.path for entry in itertools.islice(entries, _ENTRIES) if entry.is_dir())[:_BESIDE]
