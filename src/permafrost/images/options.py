"""Defaults and options that concern images, for the records of `extract` and `finetune`; imports no NumPy."""

from __future__ import annotations

from typing import Any, Final

from permafrost.options import option

MAX_PIXELS: Final = 178_956_970
"""Default maximum number of pixels of an image; Pillow refuses larger ones as decompression bombs."""

DEFAULT_AUGMENTATION: Final = "flip,shift,rotate,zoom"
"""Default augmentation of views."""


def augment_option() -> Any:
    """Declare the option `augment`, text that `augmentation.read_views` reads, as a field of an option record."""
    return option(
        None,
        "How views differ: flip, shift, rotate, zoom, brightness, contrast.",
        shown=DEFAULT_AUGMENTATION,
        metavar="NAME[=RANGE],...",
    )
