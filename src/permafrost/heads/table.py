"""Heads: what is fitted on kept features. Each becomes a Keras model from features to probabilities.

A head is a function from `HeadData` and `HeadOptions` to a `FittedHead`; `HEADS` names them all, `find_head` finds one.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

from permafrost.errors import OptionError, nearest
from permafrost.heads.head import Fit
from permafrost.heads.options import CLASSICAL_HEADS, HEADS, KERAS_HEADS

if TYPE_CHECKING:
    pass


def find_head(name: str) -> Fit:
    """The function that fits the head called `name`.

    Raises:
        OptionError: there is none.
    """
    if name not in HEADS:
        raise OptionError(f"unknown head {name}", expected=nearest(name, HEADS, n=len(HEADS)))
    if name in CLASSICAL_HEADS:
        module = importlib.import_module("permafrost.heads.sklearn_heads")
        return functools.partial(module.fit_family, name)
    fit: Fit = getattr(importlib.import_module("permafrost.heads.keras_heads"), f"fit_{name}")
    return fit


def needs_validation(name: str) -> bool:
    """Whether the head watches validation images while it is trained."""
    return name in KERAS_HEADS
