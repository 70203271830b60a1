"""Augmented views of an image: deterministic, so that a cached view equals a newly made one.

A view depends only on the image's content, the view's number and the augmentation. Adding, moving or relabelling
images changes no view.

The rule (`AUGMENTING`): flip, shift, rotation and zoom are one affine map about the centre of the image, with bilinear
interpolation and reflection at the borders, so that pixels are resampled once. Then one table of 256 values changes
contrast, about the image's mean, and brightness. The pixels are those that the trunk sees, already resized and rounded.

OpenCV does both and releases the GIL, so threads share the work. Pillow, with reflection by NumPy, takes four times as
long.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from typing import Final

import numpy as np

from permafrost.errors import OptionError, nearest
from permafrost.images.options import DEFAULT_AUGMENTATION

AUGMENTING: Final = "opencv-affine-bilinear-reflect-1"
"""The version of the rule; it changes when the pixels of a view change for equal augmentation, content and number."""

RANGES: Final = {"shift": 0.1, "rotate": 15.0, "zoom": 0.1, "brightness": 0.1, "contrast": 0.2}
"""The default range of each augmentation."""

LIMITS: Final = {"shift": 1.0, "rotate": 180.0, "zoom": 0.9, "brightness": 1.0, "contrast": 1.0}
"""The largest range of each augmentation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How views differ from their image; each value is drawn uniformly from its range.

    Attributes:
        flip: whether half of the views are mirrored horizontally.
        shift: maximum shift up, down, left or right, as a fraction of the height or width, 0 to 1.
        rotate: maximum rotation in both directions, in degrees, 0 to 180.
        zoom: the scale is between 1 - `zoom` and 1 + `zoom`; 0 to 0.9.
        brightness: maximum that is added to or subtracted from each pixel value, as a fraction of 255, 0 to 1.
        contrast: differences from the image's mean are multiplied by 1 - `contrast` to 1 + `contrast`; 0 to 1.

    Raises:
        OptionError: a range exceeds its limit.
    """

    flip: bool = False
    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            if not 0 <= getattr(self, name) <= limit:
                raise OptionError(f"{name} is out of range", expected=f"0 to {limit:g}", found=getattr(self, name))

    def __str__(self) -> str:
        ranges = [f"{name}={_exact(getattr(self, name))}" for name in RANGES if getattr(self, name)]
        return ",".join(["flip"] * self.flip + ranges)

    @property
    def rule(self) -> str:
        """Everything a view depends on except its image and its number, as text for a trunk's key."""
        return f"{self};{AUGMENTING}"

    def view(self, pixels: np.ndarray, digest: bytes, number: int) -> np.ndarray:
        """Return one view of an image.

        Args:
            pixels: (h, w, 3) uint8, 0 to 255, as the trunk sees the image.
            digest: digest of the image's content.
            number: number of the view; 0 is the image itself and returned unchanged.

        Returns:
            (h, w, 3) uint8.
        """
        if number == 0:
            return pixels
        import cv2

        flip, down, right, turn, scale, brightness, contrast = _draws(digest, number)
        if self.flip or self.shift or self.rotate or self.zoom:
            inverse = _inverse_map(
                pixels.shape[:2],
                flip=self.flip and flip < 0,
                shift=(self.shift * down, self.shift * right),
                degrees=self.rotate * turn,
                scale=1 + self.zoom * scale,
            )
            pixels = cv2.warpAffine(
                pixels,
                inverse,
                (pixels.shape[1], pixels.shape[0]),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
        if self.brightness or self.contrast:
            pixels = cv2.LUT(pixels, _table(pixels, 1 + self.contrast * contrast, 255 * self.brightness * brightness))
        return pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Which views of each training image are used.

    Attributes:
        count: number of views including the image itself; 1 is the image alone, None makes new views in each epoch.
        augmentation: how views differ from their image.
    """

    count: int | None = 1
    augmentation: Augmentation = Augmentation()

    def of_epoch(self, epoch: int) -> int:
        """Return the number of the view on which an epoch, counted from 0, trains."""
        return epoch if self.count is None else epoch % self.count

    @property
    def rule(self) -> str:
        """The augmentation's rule; empty if the image itself is the only view."""
        return "" if self.count == 1 else self.augmentation.rule


def read_views(views: int | str | None, augment: str | None, *, live: bool = False) -> Views:
    """Parse the options for views.

    Args:
        views: number of views of each training image, including the image itself; `live` for new ones in each epoch;
            None for the image alone.
        augment: names of augmentations, separated by commas, each optionally with its range: `flip,shift=0.05,rotate`.
            `DEFAULT_AUGMENTATION` if None.
        live: whether `live` is allowed.

    Raises:
        OptionError: not a number of views, an unknown augmentation, a range out of its limits, or an augmentation
            without views.
    """
    count = _count(views, live)
    if count == 1:
        if augment is not None:
            raise OptionError(
                "an augmentation without views", expected="--views 2 or more", found=f"--augment {augment}"
            )
        return Views()
    return Views(count=count, augmentation=read_augmentation(DEFAULT_AUGMENTATION if augment is None else augment))


def read_augmentation(text: str) -> Augmentation:
    """Parse an augmentation such as `flip,shift=0.05,rotate`.

    Raises:
        OptionError: an unknown name, a range that is not a number or exceeds its limit, or no augmentation at all.
    """
    fields: dict[str, float | bool] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if name == "flip" and not equals:
            fields["flip"] = True
        elif name not in RANGES:
            known = ("flip", *RANGES)
            raise OptionError(f"unknown augmentation {item}", expected=nearest(name, known, n=len(known)))
        else:
            fields[name] = _number(name, value) if equals else RANGES[name]
    augmentation = Augmentation(**fields)  # type: ignore[arg-type]
    if not str(augmentation):
        raise OptionError("views without an augmentation", expected="flip, shift, ...", found=repr(text))
    return augmentation


def _exact(number: float) -> str:
    """Return the shortest text that gives back the same number, so different augmentations have different texts."""
    return repr(float(number)).removesuffix(".0")


def _count(views: int | str | None, live: bool) -> int | None:
    if views is None:
        return 1
    if views == "live" and live:
        return None
    if not re.fullmatch(r"[0-9]+", str(views)) or int(views) < 1:
        raise OptionError("not a number of views", expected="1 or more" + (", or live" if live else ""), found=views)
    return int(views)


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(f"the range of {name} is not a number", expected=f"0 to {LIMITS[name]:g}", found=value)
    return number


def _draws(digest: bytes, number: int) -> list[float]:
    """Return seven pseudorandom numbers from -1 to 1 for a view, one for each parameter of an augmentation.

    They come from a hash, because NumPy's random numbers may change with its version.
    """
    stream = hashlib.shake_128(b"permafrost view\n" + digest + number.to_bytes(8, "little")).digest(7 * 8)
    return [int.from_bytes(stream[i : i + 8], "little") / 2**63 - 1 for i in range(0, len(stream), 8)]


def _inverse_map(
    size: tuple[int, ...], *, flip: bool, shift: tuple[float, float], degrees: float, scale: float
) -> np.ndarray:
    """Return the affine map from coordinates (x, y) in a view to those in its image, (2, 3) float64."""
    height, width = size
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    cosine, sine = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    turn = np.array([[cosine, sine], [-sine, cosine]])
    if flip:
        turn[0] = -turn[0]
    moved = centre + np.array([shift[1] * width, shift[0] * height])
    return np.concatenate([turn, (centre - turn @ moved)[:, None]], axis=1)


def _table(pixels: np.ndarray, factor: float, added: float) -> np.ndarray:
    """Return the table that changes brightness and contrast: the new value of each pixel value, (256,) uint8."""
    mean = float(pixels.mean())
    return np.clip(np.round((np.arange(256) - mean) * factor + mean + added), 0, 255).astype(np.uint8)
