"""Paths in tables: the file that is meant, and what to say if there is none."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from permafrost.images.decoding import EXTENSIONS

URL: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""The start of a URL; one letter before a colon is a drive."""

_PARENTS: Final = 3
"""How many folders above a table's are searched for an image that is missing."""


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
    return path.strip().replace("\\", "/")


def describe_missing(folder: str, path: str) -> str:
    """Say where a missing image was looked for, and where it is instead, as far as other images may be there, too.

    Args:
        folder: the folder to which the path is relative.
        path: the path, which does not exist.
    """
    where = "no such file" if os.path.isabs(path) else f"no such file in {folder}"
    hint = _other_ending(folder, path) or _other_folder(folder, path)
    return f"{where}; {hint}" if hint else where


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


def _other_ending(folder: str, path: str) -> str | None:
    """Say that there is an image of this name with another ending."""
    if not os.path.isdir(os.path.dirname(os.path.join(folder, path))):
        return None
    stem, ending = os.path.splitext(path)
    stems = [path, stem] if ending.lower() in EXTENSIONS else [path]
    endings = sorted(EXTENSIONS) + sorted(each.upper() for each in EXTENSIONS)
    found = next((each for start in stems for each in endings if _exists(folder, start + each)), None)
    return found and f"there is one that ends in {found}"


def _other_folder(folder: str, path: str) -> str | None:
    """Say that the path exists from another folder, or without its first folders."""
    if not os.path.isabs(path):
        others = [os.getcwd()]
        for _ in range(_PARENTS):
            others.append(os.path.dirname(others[-1] if others[1:] else folder))
        found = next((each for each in others if each != folder and _exists(each, path)), None)
        if found:
            return f"it is in {found}, but paths are relative to the table's folder"
    parts = path.split("/")
    for first in range(1, len(parts)):
        if parts[first] and _exists(folder, "/".join(parts[first:])):
            return f"it is in {folder} without {'/'.join(parts[:first])}/"
    return None
