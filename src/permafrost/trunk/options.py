"""Permitted values and defaults of the options that define a trunk. Loads nothing heavy."""

from __future__ import annotations

from typing import Final

DEFAULT_BASE: Final = "mobilenet_v2"
POOLINGS: Final = ("none", "avg", "max")
PRECISIONS: Final = ("float32", "bfloat16")
DTYPES: Final = ("float32", "float16")
