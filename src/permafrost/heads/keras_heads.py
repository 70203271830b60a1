"""Heads that Keras trains."""

from __future__ import annotations

from typing import Final

import keras
import numpy as np

from permafrost.errors import HeadError, OptionError
from permafrost.heads import FittedHead, HeadData, HeadOptions
from permafrost.training import Examples, train

NORM: Final = 3.5
"""Of the centred features of one picture, on average; found to suit Adam's default rate from 64 to 37,632 features."""


def fit_dense(data: HeadData, options: HeadOptions) -> FittedHead:
    """Fully connected layers: flatten, hidden layers with ReLU and dropout, softmax.

    Raises:
        OptionError: a hidden layer without units, or a dropout that leaves none.
    """
    if any(units < 1 for units in options.hidden):
        raise OptionError("a hidden layer needs units", expected="1 or more", found=min(options.hidden))
    if not 0 <= options.dropout < 1:
        raise OptionError("dropout is out of range", expected="0 to less than 1", found=options.dropout)
    first, divisor = centring(data.x)
    model = _dense_model(data.x.shape[1:], len(data.class_names), first, options)
    validation = None
    if data.validation_x is not None and data.validation_y is not None:
        validation = Examples(data.validation_y, data.validation_x.__getitem__)
    history = train(
        model,
        Examples(data.y, data.x.__getitem__),
        validation,
        options.training,
        class_count=len(data.class_names),
        progress=options.progress,
    )
    best = (max if options.training.monitor.endswith("accuracy") else min)(
        history, key=lambda row: row[options.training.monitor]
    )
    return FittedHead(
        model=model,
        history=history,
        details={
            "epochs": len(history),
            "best_epoch": int(best["epoch"]),
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
        HeadError: the features are the same for all pictures.
    """
    rows = x.reshape(-1, x.shape[-1])
    mean = rows.mean(axis=0, dtype=np.float64)
    variance = float(np.mean(np.square(rows - mean.astype(np.float32)), dtype=np.float64))
    if not variance:
        raise HeadError(
            "all pictures have the same features", expected="features that differ", do="extract at another cut"
        )
    divisor = (variance * x[0].size) ** 0.5 / NORM
    layer = keras.layers.Normalization(name="head_centring")
    layer.build((None, *x.shape[1:]))
    layer.adapt_mean.assign(mean)
    layer.adapt_variance.assign(np.full(x.shape[-1], divisor**2))
    layer.finalize_state()
    return layer, divisor


def _dense_model(shape: tuple[int, ...], class_count: int, first: keras.Layer, options: HeadOptions) -> keras.Model:
    seeds = np.random.default_rng(options.training.seed).integers(0, 2**31, size=64).tolist()
    features = keras.Input(shape, name="features")
    x = first(features)
    if len(shape) > 1:
        x = keras.layers.Flatten(name="head_flatten")(x)
    for number, units in enumerate(options.hidden, 1):
        initializer = keras.initializers.GlorotUniform(seed=seeds.pop())
        x = keras.layers.Dense(units, "relu", kernel_initializer=initializer, name=f"head_hidden_{number}")(x)
        if options.dropout:
            x = keras.layers.Dropout(options.dropout, seed=seeds.pop(), name=f"head_dropout_{number}")(x)
    initializer = keras.initializers.GlorotUniform(seed=seeds.pop())
    probabilities = keras.layers.Dense(
        class_count, "softmax", kernel_initializer=initializer, name="head_probabilities"
    )(x)
    return keras.Model(features, probabilities, name="head")
