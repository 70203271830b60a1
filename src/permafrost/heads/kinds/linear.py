"""One softmax layer, trained by Keras."""

from __future__ import annotations

from typing import Any, Final

from permafrost.heads.keras_head import KerasHead, flatten
from permafrost.heads.options import HeadOptions


def layers(x: Any, options: HeadOptions, seeds: list[int]) -> Any:  # noqa: ARG001
    """Flatten the features."""
    return flatten(x)


HEAD: Final = KerasHead(name="linear", layers=layers)
