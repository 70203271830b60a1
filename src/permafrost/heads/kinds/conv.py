"""Convolutions with ReLU, pooling and dropout on unpooled features, then the layers of `dense`, trained by Keras."""

from __future__ import annotations

from typing import Any, Final

import keras

from permafrost.errors import HeadError, OptionError
from permafrost.heads.keras_head import KerasHead, flatten, hidden_layers, weights, with_activation
from permafrost.heads.options import HeadOptions


def layers(x: Any, options: HeadOptions, seeds: list[int]) -> Any:
    """Add the convolutions, and the hidden layers on the flattened result.

    Raises:
        HeadError: the features are not maps.
        OptionError: the number of dropouts differs from that of the convolutions.
    """
    shape = tuple(x.shape[1:])
    if len(shape) != 3:
        raise HeadError(
            "conv needs maps of features",
            expected="features of shape (height, width, channels)",
            found=shape,
            do="extract with --pool none, or take --head dense",
        )
    dropouts = options.filter_dropout * (len(options.filters) if len(options.filter_dropout) == 1 else 1)
    if len(dropouts) != len(options.filters):
        raise OptionError(
            "the number of filter dropouts does not match the convolutions",
            expected=f"1 or {len(options.filters)}",
            found=len(dropouts),
        )
    for number, (filters, dropout) in enumerate(zip(options.filters, dropouts, strict=True), 1):
        layer = keras.layers.Conv2D(
            filters, options.kernel_size, padding="same", name=f"head_conv_{number}", **weights(options, seeds)
        )
        x = with_activation(layer(x), f"conv_{number}", options)
        x = keras.layers.MaxPooling2D(options.pool_size, padding="same", name=f"head_pool_{number}")(x)
        if dropout:
            x = keras.layers.Dropout(dropout, seed=seeds.pop(), name=f"head_conv_dropout_{number}")(x)
    return hidden_layers(flatten(x), options, seeds)


HEAD: Final = KerasHead(name="conv", layers=layers)
