"""The file of a model's class names, `labels.txt`: one name per line, UTF-8, any name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from permafrost.errors import RunError

LABELS_FILE: Final = "labels.txt"
_BOM: Final = "\ufeff"


def labels_bytes(names: Sequence[str]) -> bytes:
    """Return the content of the file that `read_labels` reads.

    A name is written as it is, even if it has bytes that are not UTF-8 (surrogates, PEP 383). A name that would then
    be read as another one, such as one with a line break, is written as a JSON string.
    """
    return b"".join(_line(name) + b"\n" for name in names)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names, also from a file that another program or an editor wrote.

    Only a line feed, after a carriage return or not, ends a line; other line separators of Unicode are part of names.

    Raises:
        RunError: the file cannot be read.
    """
    try:
        return _names(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error


def _line(name: str) -> bytes:
    try:
        plain = _encoded(name)
    except UnicodeEncodeError:  # A surrogate that stands for no byte.
        return _encoded(json.dumps(name))
    return plain if _names(plain + b"\n") == (name,) else _encoded(json.dumps(name))


def _names(content: bytes) -> tuple[str, ...]:
    lines = content.decode("utf-8", "surrogateescape").removeprefix(_BOM).split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    return tuple(map(_name, lines))


def _name(line: str) -> str:
    if line.startswith('"'):
        try:
            name = json.loads(line)
        except ValueError:
            return line
        return name if isinstance(name, str) else line
    return line


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
