"""The options of `extract`: how images become features. Loads nothing heavy."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Final, TypedDict

from permafrost.engines.options import ENGINES, KERAS_BATCH, OPENVINO_BATCH
from permafrost.errors import OptionError
from permafrost.images.options import MAX_PIXELS, ReadingOptions, augment_option
from permafrost.images.splits import TEST_FRACTION, VALIDATION_FRACTION, check_fractions
from permafrost.machine import cpu_count
from permafrost.options import check, option
from permafrost.trunk.options import DEFAULT_BASE, DTYPES, POOLINGS, PRECISIONS

DEFAULT_FOLDER: Final = "features"
"""Folder of feature sets if none is given."""

ON_BAD: Final = ("skip", "fail")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkOptions:
    """The options that define the trunk.

    Raises:
        OptionError: a value is not permitted.
    """

    base: str | None = option(
        None,
        "A base from keras.applications in snake case, with its options after a colon, e.g. "
        "mobilenet_v2:alpha=0.5; a bundled base; a FILE.keras; or a RUN/, whose fine-tuned base is used.",
        shown=DEFAULT_BASE,
    )
    weights: str | None = option(
        None, "imagenet, none (random, but always the same), or a weights file.", shown="the base's own"
    )
    cut: str | int | Sequence[str | int] | None = option(
        None,
        "Layer whose output becomes the features, by name or index; several are computed in one pass.",
        shown="the last layer",
        metavar="LAYER|INDEX[,...]",
    )
    pool: str = option("none", "Pooling over height and width.", choices=POOLINGS)
    image_size: int | str | tuple[int, int] | None = option(
        None,
        "Size of the base's input in pixels: one number, or height and width as 120x160.",
        shown="the base's own",
        metavar="PX|HxW",
    )
    preprocessing: str | None = option(
        None, "How a FILE.keras base expects its input scaled: none, tf, caffe or torch.", shown="the base's own"
    )
    dtype: str = option("float32", "Data type in which features are stored.", choices=DTYPES)
    precision: str = option("float32", "Precision in which the base computes.", choices=PRECISIONS)

    def __post_init__(self) -> None:
        check(self)
        if not self.cuts:
            raise OptionError("no layer to cut at", expected="one or more", found="an empty list")
        _ = self.size

    @property
    def cuts(self) -> tuple[str | int | None, ...]:
        """The layers to cut at; None is the last layer."""
        if isinstance(self.cut, str):
            return tuple(self.cut.split(","))
        return tuple(self.cut) if isinstance(self.cut, Sequence) else (self.cut,)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the base's input in pixels; None for the base's own."""
        size = self.image_size
        if isinstance(size, str):
            numbers = re.fullmatch(r"(\d+)(?:x(\d+))?", size.strip().lower())
            if not numbers:
                raise OptionError("not an image size", expected="a number of pixels, or HEIGHTxWIDTH", found=size)
            return int(numbers[1]), int(numbers[2] or numbers[1])
        return (size, size) if isinstance(size, int) else size


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """How images are read and computed.

    Raises:
        OptionError: a value is not permitted.
    """

    engine: str = option(
        "auto", "What runs the base. auto is keras with a GPU and openvino without one.", choices=ENGINES
    )
    batch_size: int | None = option(
        None, "Images per batch.", shown=f"{OPENVINO_BATCH} with openvino, {KERAS_BATCH} with keras", minimum=1
    )
    workers: int | None = option(None, "Threads that read and decode.", shown="one per processor", minimum=1)
    on_bad: str = option("skip", "Whether to skip an image that cannot be decoded, or fail.", choices=ON_BAD)
    max_pixels: int = option(MAX_PIXELS, "Images with more pixels count as bad and are not decoded.", minimum=1)
    progress: bool = option(True, "Draw a progress bar on a terminal or in a notebook.")

    def __post_init__(self) -> None:
        check(self)

    @property
    def threads(self) -> int:
        """Threads that read and decode."""
        return self.workers or cpu_count()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractOptions(ReadingOptions, PipelineOptions, TrunkOptions):
    """The options of `extract`, described by their fields.

    Raises:
        OptionError: a value is not permitted.
    """

    views: int = option(1, "Views of each training image; the image itself is the first.", metavar="K", minimum=1)
    augment: str | None = augment_option()
    validation_fraction: float = option(
        VALIDATION_FRACTION, "Fraction of the images without a given split that go to validation."
    )
    test_fraction: float = option(TEST_FRACTION, "Fraction of the images without a given split that go to test.")
    out: str | os.PathLike[str] | None = option(
        None, "File of the feature set.", shown="features/<data>-<base>-<cut>.h5", metavar="SET.h5"
    )

    def __post_init__(self) -> None:
        ReadingOptions.__post_init__(self)
        PipelineOptions.__post_init__(self)
        TrunkOptions.__post_init__(self)
        check_fractions(**self.fractions)

    @property
    def fractions(self) -> dict[str, float]:
        """The fractions as keywords of `assign_splits`."""
        return {"validation_fraction": self.validation_fraction, "test_fraction": self.test_fraction}


class ExtractSettings(TypedDict, total=False):
    """The fields of `ExtractOptions` as optional keywords, for type checkers; a test compares the two."""

    base: str | None
    weights: str | None
    cut: str | int | Sequence[str | int] | None
    pool: str
    image_size: int | str | tuple[int, int] | None
    preprocessing: str | None
    dtype: str
    precision: str
    engine: str
    batch_size: int | None
    workers: int | None
    on_bad: str
    max_pixels: int
    progress: bool
    layout: str | None
    split_by: str | None
    views: int
    augment: str | None
    validation_fraction: float
    test_fraction: float
    out: str | os.PathLike[str] | None
