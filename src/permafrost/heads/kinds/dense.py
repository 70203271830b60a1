"""Fully connected layers with ReLU and dropout, trained by Keras."""

from __future__ import annotations

from typing import Any, Final

from permafrost.heads.keras_head import KerasHead, flatten, hidden_layers
from permafrost.heads.options import HeadOptions


def layers(x: Any, options: HeadOptions, seeds: list[int]) -> Any:
    """Flatten the features and add the hidden layers."""
    return hidden_layers(flatten(x), options, seeds)


HEAD: Final = KerasHead(name="dense", layers=layers)
