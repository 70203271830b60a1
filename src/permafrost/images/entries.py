"""What the readers of folders, tables and arrays return, and the error that they raise for unreadable files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from permafrost.errors import DatasetError
from permafrost.images.arrays.ranges import PixelRange


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entries:
    """A dataset's images as its folder or file lists them.

    Attributes:
        names: the name of each image, as `Dataset.names`.
        labels: the class name of each image.
        splits: the split of each image, or None if the dataset does not give it.
        skipped: names of other files and folders, each with the reason why it is not used.
        class_names: the classes in order; those of `labels`, sorted, if None.
        arrays: the images themselves if they are in memory: (h, w) or (h, w, c) each.
        pixels: what the values of the arrays meant, before they were converted.
        groups: the group of each image, or None for an image without one; None if there are no groups.
        grouped_by: what decides the groups, e.g. `column patient`; empty without groups.
        notes: what was understood that the user should know, one line each.
        warnings: what the user should check, one line each.
    """

    names: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str | None]
    skipped: Sequence[tuple[str, str]] = ()
    class_names: Sequence[str] | None = None
    arrays: Sequence[np.ndarray] | None = None
    pixels: PixelRange | None = None
    groups: Sequence[str | None] | None = None
    grouped_by: str = ""
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


@contextlib.contextmanager
def read_errors(path: str) -> Iterator[None]:
    """Turn an `OSError` of the block into a `DatasetError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
