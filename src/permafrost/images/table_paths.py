"""Paths in tables: the file that is meant, and what to say if there is none."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from permafrost.images.decoding import EXTENSIONS
from permafrost.images.table_text import stripped

URL: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""The start of a URL; one letter before a colon is a drive."""

_ENDINGS: Final = (*sorted(EXTENSIONS), *sorted(ending.upper() for ending in EXTENSIONS))
"""Endings of image files, as people write them."""

_PARENTS: Final = 3
"""How many folders above a table's are searched for a missing image."""

_BESIDE: Final = 8
"""How many folders beside a table are searched, as long as they are among the first `_ENTRIES` entries there."""

_ENTRIES: Final = 256


def is_plain(path: str) -> bool:
    """Return whether a path of a table can only mean one file."""
    return path.isascii() and path.strip() == path and path[:1] != "~" and "\\" not in path


def existing(folder: str, path: str) -> str | None:
    """Return the first variant of a path that exists, or None.

    Args:
        folder: the folder to which the path is relative.
        path: as the table has it.
    """
    return next((each for each in dict.fromkeys(_variants(path)) if _exists(folder, each)), None)


def usual(path: str) -> str:
    """Return a path without blanks around it, and with slashes."""
    return stripped(path).replace("\\", "/")


def describe_missing(folder: str, path: str) -> str:
    """Say where a missing image was looked for, and where one is that may be meant.

    The text does not name the image, so that it is the same for all images that are missing for one reason.

    Args:
        folder: the folder to which the path is relative.
        path: the path, which does not exist.
    """
    where = "no such file" if os.path.isabs(path) else f"no such file in {folder}"
    hint = next(_similar(folder, path), None)
    return f"{where}; there is one {hint}" if hint else where


def _variants(path: str) -> Iterator[str]:
    yield path
    yield path.strip()
    path = usual(path)
    yield unicodedata.normalize("NFC", path)
    yield unicodedata.normalize("NFD", path)
    if path.startswith("~/"):
        yield os.path.expanduser(path)


def _exists(folder: str, path: str) -> bool:
    return os.path.exists(os.path.join(folder, path))


def _similar(folder: str, path: str) -> Iterator[str]:
    """Yield how images that exist differ from a missing one: in their ending, their folder, their case."""
    if ending := _other_ending(folder, path):
        yield f"that ends in {ending}"
    for base in [] if os.path.isabs(path) else _other_folders(folder):
        if _exists(base, path):
            yield f"in {base}, but paths are relative to the table's folder"
        elif ending := _other_ending(base, path):
            yield f"in {base} that ends in {ending}, but paths are relative to the table's folder"
    parts = path.split("/")
    for first in range(1, len(parts)):
        if parts[first] and _exists(folder, "/".join(parts[first:])):
            yield f"without {'/'.join(parts[:first])}/"
    if _exists(folder, path.lower()):
        yield "in lower case"


def _other_ending(folder: str, path: str) -> str | None:
    """Return the ending of an image that is called like a missing one up to the ending, or None."""
    if not os.path.isdir(os.path.dirname(os.path.join(folder, path))):
        return None
    stem, ending = os.path.splitext(path)
    stems = (path, stem) if ending.lower() in EXTENSIONS else (path,)
    return next((each for start in stems for each in _ENDINGS if _exists(folder, start + each)), None)


def _other_folders(folder: str) -> Iterator[str]:
    """Yield folders that paths may be relative to by mistake: the current one, some above the table, some beside it."""
    yield os.getcwd()
    above = folder
    for _ in range(_PARENTS):
        above = os.path.dirname(above)
        yield above
    with os.scandir(folder) as entries:
        yield from sorted(entry.path for entry in itertools.islice(entries, _ENTRIES) if entry.is_dir())[:_BESIDE]
