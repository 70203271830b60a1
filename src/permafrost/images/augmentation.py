"""Views: augmented versions of an image, the same ones every time.

What a view is follows from the image's content, the view's number and the augmentation alone: adding, moving or
relabelling images changes no view, and a view that is kept is the same as one that is made anew in each epoch.

The rule (`AUGMENTING`): flip, shift, rotation and zoom are one affine map about the image's centre, bilinear, with
what lies outside filled by reflection, so that pixels are resampled once; then contrast about the image's mean and
brightness, as one table of 256 values. Pixels are those that the trunk sees, resized already, and are rounded.

OpenCV does both, and releases the interpreter's lock, so that threads share the work. Pillow, with the reflection put
on by NumPy, takes four times as long.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from typing import Final

import numpy as np

from permafrost.errors import OptionError, nearest

AUGMENTING: Final = "opencv-affine-bilinear-reflect-1"
"""Raised when a view's pixels change for the same augmentation, content and number."""

RANGES: Final = {"shift": 0.1, "rotate": 15.0, "zoom": 0.1, "brightness": 0.1, "contrast": 0.2}
"""The range of each augmentation where it is named without one."""

LIMITS: Final = {"shift": 1.0, "rotate": 180.0, "zoom": 0.9, "brightness": 1.0, "contrast": 1.0}
"""The largest range of each."""

USUAL: Final = "flip,shift,rotate,zoom"
"""Where views are asked for and no augmentation is named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How views differ from their image; each value is drawn uniformly from its range.

    Attributes:
        flip: whether half of the views are mirrored, left and right.
        shift: at most this share of the height up or down, and of the width left or right.
        rotate: at most so many degrees either way.
        zoom: the scale lies between 1 - `zoom` and 1 + `zoom`.
        brightness: at most this share of 255 is added or subtracted.
        contrast: differences from the image's mean are multiplied by 1 - `contrast` to 1 + `contrast`.
    """

    flip: bool = False
    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        for name, most in LIMITS.items():
            if not 0 <= getattr(self, name) <= most:
                raise OptionError(f"{name} is out of range", expected=f"0 to {most:g}", found=getattr(self, name))

    def __str__(self) -> str:
        ranges = [f"{name}={_written(getattr(self, name))}" for name in RANGES if getattr(self, name)]
        return ",".join(["flip"] * self.flip + ranges)

    @property
    def rule(self) -> str:
        """All that decides a view but its image and its number, as text for a trunk's key."""
        return f"{self};{AUGMENTING}"

    def view(self, pixels: np.ndarray, digest: bytes, number: int) -> np.ndarray:
        """One view of an image.

        Args:
            pixels: (h, w, 3) uint8, 0 to 255, as the trunk sees the image.
            digest: of the image's content.
            number: 0 for the image itself, which is returned as it is.

        Returns:
            (h, w, 3) uint8.
        """
        if number == 0:
            return pixels
        import cv2

        flip, down, right, turn, scale, light, spread = _draws(digest, number)
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
            pixels = cv2.LUT(pixels, _table(pixels, 1 + self.contrast * spread, 255 * self.brightness * light))
        return pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Which views of each training image there are.

    Attributes:
        count: how many, the image itself among them; 1 is the image alone. None makes new ones in each epoch.
        augmentation: how they are made.
    """

    count: int | None = 1
    augmentation: Augmentation = Augmentation()

    @property
    def by_turns(self) -> bool:
        """Whether epochs train on different views."""
        return self.count != 1

    def of_epoch(self, epoch: int) -> int:
        """The view on which epoch `epoch`, from 0, trains."""
        return epoch if self.count is None else epoch % self.count

    @property
    def rule(self) -> str:
        """The augmentation's rule; empty where there is only the image itself."""
        return "" if self.count == 1 else self.augmentation.rule


def read_views(views: int | str | None, augment: str | None, *, live: bool = False) -> Views:
    """Views as users ask for them.

    Args:
        views: how many of each training image, the image itself among them; `live` for new ones in each epoch;
            None for the image alone.
        augment: names of augmentations, separated by commas, each with its range behind an equals sign where it is not
            to be the usual one: `flip,shift=0.05,rotate`; None for the usual ones.
        live: whether `live` is allowed.

    Raises:
        OptionError: not a number of views, an unknown augmentation, a range that makes no sense, or an augmentation
            without views.
    """
    count = _count(views, live)
    if count == 1:
        if augment is not None:
            raise OptionError(
                "an augmentation without views", expected="--views 2 or more", found=f"--augment {augment}"
            )
        return Views()
    return Views(count=count, augmentation=read_augmentation(USUAL if augment is None else augment))


def read_augmentation(text: str) -> Augmentation:
    """The augmentation that `text` names: `flip,shift=0.05,rotate`.

    Raises:
        OptionError: an unknown name, or a range that is none.
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


def _written(number: float) -> str:
    """A number as short as it can be, and exact: two augmentations that differ have two texts."""
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
        raise OptionError(f"the range of {name} is no number", expected=f"0 to {LIMITS[name]:g}", found=value)
    return number


def _draws(digest: bytes, number: int) -> list[float]:
    """Seven numbers from -1 to 1 for a view, each always of the same augmentation.

    From a hash rather than a random generator, whose numbers may change with NumPy's version.
    """
    stream = hashlib.shake_128(b"permafrost view\n" + digest + number.to_bytes(8, "little")).digest(7 * 8)
    return [int.from_bytes(stream[i : i + 8], "little") / 2**63 - 1 for i in range(0, len(stream), 8)]


def _inverse_map(
    size: tuple[int, ...], *, flip: bool, shift: tuple[float, float], degrees: float, scale: float
) -> np.ndarray:
    """For each pixel of a view where in the image it comes from: (2, 3) float64, of x and y."""
    height, width = size
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    cosine, sine = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    turn = np.array([[cosine, sine], [-sine, cosine]])
    if flip:
        turn[0] = -turn[0]
    moved = centre + np.array([shift[1] * width, shift[0] * height])
    return np.concatenate([turn, (centre - turn @ moved)[:, None]], axis=1)


def _table(pixels: np.ndarray, factor: float, added: float) -> np.ndarray:
    """For each of 256 values what becomes of it: (256,) uint8."""
    mean = float(pixels.mean())
    return np.clip(np.round((np.arange(256) - mean) * factor + mean + added), 0, 255).astype(np.uint8)
