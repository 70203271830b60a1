"""Numbers of bytes as text, and text as numbers of bytes."""

from __future__ import annotations

import re
from typing import Final

from permafrost.errors import OptionError

_POWERS: Final = {prefix: power for power, prefix in enumerate(("", "K", "M", "G", "T"))}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *(?:([KMGT]?)(I?)B?)", re.IGNORECASE)


def size(count: float) -> str:
    """Return a number of bytes as text with decimal units: `1.5 MB` is 1,500,000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def parse_size(text: str | int) -> int:
    """Parse a number of bytes.

    Args:
        text: a number with or without a unit, such as `20GB`, `20G`, `1.5 GiB` or `0`, in upper or lower case. `K`,
            `M`, `G` and `T` are powers of 1000, `Ki`, `Mi`, `Gi` and `Ti` powers of 1024; a `B` may follow.

    Raises:
        OptionError: the text is not a number of bytes.
    """
    match = _SIZE.fullmatch(str(text).strip())
    if not match or (match[3] and not match[2]):
        raise OptionError("not a number of bytes", expected="a number such as 20GB or 20GiB", found=text)
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].upper()])
