"""Find a head by name. Each is the `HEAD` of its module in `permafrost.heads.kinds`, loaded on first use."""

from __future__ import annotations

import importlib

from permafrost.errors import OptionError, nearest
from permafrost.heads.head import Head
from permafrost.heads.options import HEADS


def find_head(name: str) -> Head:
    """Return the head called `name`.

    Raises:
        OptionError: there is no such head.
    """
    if name not in HEADS:
        raise OptionError(f"unknown head {name}", expected=nearest(name, HEADS, n=len(HEADS)))
    head: Head = importlib.import_module(f"permafrost.heads.kinds.{name}").HEAD
    return head
