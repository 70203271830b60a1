"""Preprocessing rules: the scaling of pixels that a base was trained with.

The three rules are those of `keras.applications.imagenet_utils.preprocess_input`, expressed as layers: extraction and
the exported model share them on every backend.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import keras

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STDDEV = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """`y = x * scale + offset` per channel; if `bgr`, red and blue are swapped first."""

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    bgr: bool = False


RULES: Final[dict[str, Rule | None]] = {
    # Nothing: the base scales its own input, or takes pixels from 0 to 255.
    "none": None,
    # Scale to -1 to 1.
    "tf": Rule(scale=(1 / 127.5,) * 3, offset=(-1.0,) * 3),
    # Swap red and blue, then subtract ImageNet's mean, without scaling.
    "caffe": Rule(scale=(1.0,) * 3, offset=(-103.939, -116.779, -123.68), bgr=True),
    # Scale to 0 to 1, then normalise by ImageNet's mean and standard deviation.
    "torch": Rule(
        scale=tuple(1 / (255 * s) for s in _IMAGENET_STDDEV),  # type: ignore[arg-type]
        offset=tuple(-m / s for m, s in zip(_IMAGENET_MEAN, _IMAGENET_STDDEV, strict=True)),  # type: ignore[arg-type]
    ),
}


def preprocess(pixels: keras.KerasTensor, rule: str) -> Any:
    """Apply the layers of a rule to a symbolic tensor of pixels.

    Args:
        pixels: (n, h, w, 3) float32, 0 to 255.
        rule: a name in `RULES`.

    Returns:
        (n, h, w, 3) float32, computed in float32 whatever the base's precision.
    """
    import keras

    steps = RULES[rule]
    if steps is None:
        return pixels
    if steps.bgr:
        pixels = keras.ops.flip(pixels, axis=-1)
    return keras.layers.Rescaling(list(steps.scale), offset=list(steps.offset), dtype="float32", name="preprocessing")(
        pixels
    )
