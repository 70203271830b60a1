"""Paths in tables: the file that is meant."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from permafrost.images.tables.text import stripped

URL: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""The start of a URL; one letter before a colon is a drive."""


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
