"""Images that are given by paths of files and folders, or as arrays."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from permafrost.errors import DatasetError, OptionError
from permafrost.images.arrays.ranges import PixelRange, range_of
from permafrost.images.arrays.shapes import CHANNELS
from permafrost.images.folders.tree import Folder
from permafrost.images.skipped import what_was_found
from permafrost.images.sources import ArrayImage, FileImage, ImageSource

Images: TypeAlias = str | os.PathLike[str] | np.ndarray | Sequence[str | os.PathLike[str] | np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundImages:
    """Images to predict.

    Attributes:
        images: the path (None for an array) and the source of each image.
        skipped: paths of other files and folders, each with the reason why it is not used.
    """

    images: list[tuple[str | None, ImageSource]]
    skipped: list[tuple[str, str]]


def find_images(images: Images, *, pixels: PixelRange | None = None) -> FoundImages:
    """Find the images of paths, folders and arrays; files are not opened, except those without an extension.

    Args:
        images: paths, arrays, or both.
        pixels: what the values of other arrays meant before, which holds for these where they fit it.

    Raises:
        DatasetError: there are none, or the values of the arrays have no or no single meaning.
    """
    found = FoundImages(images=[], skipped=[])
    listed = _listed(images)
    pixels = range_of("the arrays", [image for image in listed if isinstance(image, np.ndarray)], fitted=pixels)
    for image in listed:
        if isinstance(image, np.ndarray):
            found.images.append((None, ArrayImage(image, pixels)))
            continue
        path = os.path.expanduser(os.fspath(image))
        if not path:
            raise OptionError("not the path of an image", found=repr(path))
        if not os.path.isdir(path):
            found.images.append((path, FileImage(path)))
            continue
        folder = Folder(path)
        for name, reason in [("", folder.error)] if folder.error else folder.walk():
            below = os.path.join(path, name)
            if reason is None:
                found.images.append((below, FileImage(below)))
            else:
                found.skipped.append((below, reason))
    if not found.images:
        raise DatasetError(
            "no images to predict",
            expected="paths of images, or of folders with images",
            found=what_was_found(found.skipped),
        )
    return found


def _listed(images: Images) -> list[str | os.PathLike[str] | np.ndarray]:
    """Return images, or a single one, as a list of paths and arrays."""
    if isinstance(images, str | os.PathLike) or (isinstance(images, np.ndarray) and _is_one_image(images.shape)):
        return [images]
    found = list(images) if isinstance(images, Iterable) else [images]
    for image in found:
        if not isinstance(image, str | os.PathLike | np.ndarray):
            raise OptionError("not an image", expected="paths, or arrays (h, w, 3)", found=type(image).__name__)
    return found


def _is_one_image(shape: tuple[int, ...]) -> bool:
    if len(shape) == 3 and shape[0] in CHANNELS and shape[0] > 1 and shape[2] not in CHANNELS:
        raise OptionError(
            f"an array {shape} has two readings: one image with channels first, or {shape[0]} grey images",
            expected="(h, w, 3), or (n, h, w, 3)",
            do="give a list of images",
        )
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in CHANNELS)
