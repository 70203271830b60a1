"""Heads that Keras trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import keras
import numpy as np

from permafrost.errors import HeadError, OptionError
from permafrost.heads.head import FittedHead, HeadData
from permafrost.heads.options import HeadOptions
from permafrost.store.streaming import ShuffledRows
from permafrost.training.loop import Examples, train

NORM: Final = 3.5
"""Of the centred features of one image, on average; found to suit Adam's default rate from 64 to 37,632 features."""


def fit_dense(data: HeadData, options: HeadOptions) -> FittedHead:
    """Fully connected layers: flatten, hidden layers with ReLU and dropout, softmax.

    Raises:
        OptionError: a layer without units, or a fraction out of range.
    """
    return _fit(data, options, lambda x, seeds: _hidden_layers(_flat(x), options, seeds))


def fit_linear(data: HeadData, options: HeadOptions) -> FittedHead:
    """One softmax layer.

    Raises:
        OptionError: a fraction out of range.
    """
    return _fit(data, options, lambda x, _: _flat(x))


def fit_conv(data: HeadData, options: HeadOptions) -> FittedHead:
    """For maps: convolutions with ReLU, each followed by pooling and dropout; then as `fit_dense`.

    Raises:
        HeadError: the features are no maps.
        OptionError: a layer without units or filters, or a fraction out of range.
    """
    shape = data.x.shape[1:]
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
            "one filter dropout for each convolution", expected=f"1 or {len(options.filters)}", found=len(dropouts)
        )

    def layers(x: Any, seeds: list[int]) -> Any:
        for number, (filters, dropout) in enumerate(zip(options.filters, dropouts, strict=True), 1):
            layer = keras.layers.Conv2D(
                filters, options.kernel_size, padding="same", name=f"head_conv_{number}", **_weights(options, seeds)
            )
            x = _activated(layer(x), f"conv_{number}", options)
            x = keras.layers.MaxPooling2D(options.pool_size, padding="same", name=f"head_pool_{number}")(x)
            if dropout:
                x = keras.layers.Dropout(dropout, seed=seeds.pop(), name=f"head_conv_dropout_{number}")(x)
        return _hidden_layers(_flat(x), options, seeds)

    return _fit(data, options, layers)


def _training_examples(data: HeadData) -> Examples:
    """Training images, in memory or not; where they have views, one of them in each epoch, by turns."""
    if data.stream is not None:
        shuffled = ShuffledRows(data.stream)
        return Examples(data.stream.labels, shuffled.load, order=shuffled.order)
    count = len(data.y) // data.views

    def of_epoch(epoch: int) -> Callable[[Any], Any]:
        first = count * (epoch % data.views)
        return lambda rows: data.x[first + rows]

    return Examples(data.y[:count], data.x.__getitem__, of_epoch=of_epoch if data.views > 1 else None)


def _fit(data: HeadData, options: HeadOptions, layers: Callable[[Any, list[int]], Any]) -> FittedHead:
    """Train a model whose layers stand between centred features and the softmax layer."""
    first, divisor = centring(data.x)
    seeds = np.random.default_rng(options.training.seed).integers(0, 2**31, size=64).tolist()
    features = keras.Input(data.x.shape[1:], name="features")
    last = layers(first(features), seeds)
    outputs = keras.layers.Dense(
        len(data.class_names), "softmax", name="head_probabilities", **_weights(options, seeds)
    )
    model = keras.Model(features, outputs(last), name="head")
    validation = None
    if data.validation_x is not None and data.validation_y is not None:
        validation = Examples(data.validation_y, data.validation_x.__getitem__)
    result = train(
        model,
        _training_examples(data),
        validation,
        options.training,
        progress=options.progress,
    )
    return FittedHead(
        model=model,
        history=result.history,
        details={
            "epochs": len(result.history),
            "best_epoch": result.best_epoch,
            "parameters": model.count_params(),
            "divisor": divisor,
        },
    )


def centring(x: np.ndarray) -> tuple[keras.Layer, float]:
    """A layer that subtracts each channel's mean and divides all by one number, so that norms are `NORM` on average.

    Bases differ by orders of magnitude in the size and the number of their features, and features after ReLU have large
    means; with this, one learning rate suits them all: a step of Adam moves every weight by as much, so its effect
    grows with the sum of the inputs. One divisor, as scaling each channel by itself would blow up those that are nearly
    always zero.

    Args:
        x: (n, ..., channels) float32.

    Returns:
        The layer, and the divisor.

    Raises:
        HeadError: the features are the same for all images.
    """
    rows = x.reshape(-1, x.shape[-1])
    mean = rows.mean(axis=0, dtype=np.float64)
    variance = float(np.mean(np.square(rows - mean.astype(np.float32)), dtype=np.float64))
    if not variance:
        raise HeadError(
            "all images have the same features", expected="features that differ", do="extract at another cut"
        )
    divisor = (variance * x[0].size) ** 0.5 / NORM
    layer = keras.layers.Normalization(name="head_centring")
    layer.build((None, *x.shape[1:]))
    layer.adapt_mean.assign(mean)
    layer.adapt_variance.assign(np.full(x.shape[-1], divisor**2))
    layer.finalize_state()
    return layer, divisor


def _weights(options: HeadOptions, seeds: list[int]) -> dict[str, Any]:
    """How a layer's weights start, and what they cost."""
    return {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=seeds.pop()),
        "kernel_regularizer": keras.regularizers.L2(options.l2) if options.l2 else None,
    }


def _flat(x: Any) -> Any:
    return keras.layers.Flatten(name="head_flatten")(x) if len(x.shape) > 2 else x


def _hidden_layers(x: Any, options: HeadOptions, seeds: list[int]) -> Any:
    for number, units in enumerate(options.hidden, 1):
        layer = keras.layers.Dense(units, name=f"head_hidden_{number}", **_weights(options, seeds))
        x = _activated(layer(x), f"hidden_{number}", options)
        if options.dropout:
            x = keras.layers.Dropout(options.dropout, seed=seeds.pop(), name=f"head_dropout_{number}")(x)
    return x


def _activated(x: Any, name: str, options: HeadOptions) -> Any:
    """ReLU, after normalisation over the batch where that is asked for."""
    if options.batch_norm:
        x = keras.layers.BatchNormalization(name=f"head_{name}_norm")(x)
    return keras.layers.ReLU(name=f"head_{name}_relu")(x)
