"""Heads that Keras trains."""

from __future__ import annotations

import keras
import numpy as np

from permafrost.errors import HeadError, OptionError
from permafrost.heads import FittedHead, HeadData, HeadOptions
from permafrost.training import Examples, train


def fit_dense(data: HeadData, options: HeadOptions) -> FittedHead:
    """Fully connected layers: flatten, hidden layers with ReLU and dropout, softmax.

    Raises:
        OptionError: a hidden layer without units, or a dropout that leaves none.
    """
    if any(units < 1 for units in options.hidden):
        raise OptionError("a hidden layer needs units", expected="1 or more", found=min(options.hidden))
    if not 0 <= options.dropout < 1:
        raise OptionError("dropout is out of range", expected="0 to less than 1", found=options.dropout)
    first, deviation = centring(data.x)
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
            "deviation": deviation,
        },
    )


def centring(x: np.ndarray) -> tuple[keras.Layer, float]:
    """A layer that subtracts each channel's mean and divides all by one number, the deviation over all channels.

    Bases differ by orders of magnitude in the size of their features, and features after ReLU have large means; with
    this, one learning rate suits them all. One divisor, as scaling each channel by itself would blow up those that are
    nearly always zero.

    Args:
        x: (n, ..., channels) float32.

    Returns:
        The layer, and the deviation.

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
    layer = keras.layers.Normalization(name="head_centring")
    layer.build((None, *x.shape[1:]))
    layer.adapt_mean.assign(mean)
    layer.adapt_variance.assign(np.full(x.shape[-1], variance))
    layer.finalize_state()
    return layer, variance**0.5


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
