"""Defaults and options that concern images, for the records of `extract` and `finetune`; imports no NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from permafrost.errors import OptionError
from permafrost.options import check, option

MAX_PIXELS: Final = 178_956_970
"""Default maximum number of pixels of an image; Pillow refuses larger ones as decompression bombs."""

DEFAULT_AUGMENTATION: Final = "flip,shift,rotate,zoom"
"""Default augmentation of views."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How a dataset is read.

    Raises:
        OptionError: a value is not permitted.
    """

    layout: str | None = option(
        None,
        "What the levels of folders are: class, split/class, class/split, or with * for a level that is neither.",
        shown="recognised",
        metavar="LEVELS",
    )
    split_by: str | None = option(
        None,
        "Keep images of one group in one split: a column of the CSV, folder-1 for the image's own folder, folder-2 for "
        "the one above, ..., or a regular expression that finds the group in the path.",
        shown="the CSV's column group, if any",
        metavar="COLUMN|folder-N|PATTERN",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.layout is not None:
            read_levels(self.layout)


def read_levels(layout: str) -> tuple[str, ...]:
    """Read a layout: `split/class` is `("split", "class")`.

    Raises:
        OptionError: it is not made of levels, has no `class`, or has a level twice.
    """
    levels = tuple(level.strip().lower() for level in layout.strip().strip("/").split("/"))
    if not set(levels) <= {"class", "split", "*"} or levels.count("class") != 1 or levels.count("split") > 1:
        raise OptionError(
            "unknown layout",
            expected="levels of folders such as class, split/class, class/split or */class, with class in it once",
            found=layout,
        )
    return levels


RECOGNISED: Final = ReadingOptions()
"""Everything is recognised; nothing is asked for."""


def augment_option() -> Any:
    """Declare the option `augment`, text that `augmentation.read_views` reads, as a field of an option record."""
    return option(
        None,
        "How views differ: flip, shift, rotate, zoom, brightness, contrast.",
        shown=DEFAULT_AUGMENTATION,
        metavar="NAME[=RANGE],...",
    )
