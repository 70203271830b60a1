"""Numbers of bytes, as people write them."""

from __future__ import annotations

import re

from permafrost.errors import OptionError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def size(count: float) -> str:
    """A number of bytes for people: `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def parse_size(text: str | int) -> int:
    """A number of bytes as people write it: `20GB`, `500 MB`, `0`.

    Raises:
        OptionError: it is none.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([kKMGT]?B)?", str(text).strip())
    if not match:
        raise OptionError("not a number of bytes", expected="a number such as 20GB", found=text)
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])
