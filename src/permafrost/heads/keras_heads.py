"""Heads that Keras trains."""

from __future__ import annotations

import keras
import numpy as np

from permafrost.errors import OptionError
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
    model = _dense_model(data.x.shape[1:], len(data.class_names), options)
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
        details={"epochs": len(history), "best_epoch": int(best["epoch"]), "parameters": model.count_params()},
    )


def _dense_model(shape: tuple[int, ...], class_count: int, options: HeadOptions) -> keras.Model:
    seeds = np.random.default_rng(options.training.seed).integers(0, 2**31, size=64).tolist()
    features = x = keras.Input(shape, name="features")
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
