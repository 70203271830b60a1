"""Heads that Keras trains: centring, the head's own layers, a softmax layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import keras
import numpy as np

from permafrost.heads.head import FittedHead, Head, HeadData, identical_features
from permafrost.heads.options import HeadOptions
from permafrost.heads.to_keras import normalization
from permafrost.store.streaming import ShuffledRows
from permafrost.training.loop import Examples, train

NORM: Final = 3.5
"""Mean norm of an image's centred features; it suits Adam's default rate from 64 to 37,632 features."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasHead(Head):
    """A head that Keras trains.

    Attributes:
        name: its name in commands and runs.
        layers: adds the layers between the centred features and the softmax layer; takes the features' tensor, the
            options, and a list of random seeds that each layer pops from.
    """

    name: str
    layers: Callable[[Any, HeadOptions, list[int]], Any]
    monitors_validation: bool = True

    @property
    def streams(self) -> bool:
        """Whether the head can be fitted to features that stay on disk."""
        return True

    def fit(self, data: HeadData, options: HeadOptions, *, labels_only: bool = False) -> FittedHead:  # noqa: ARG002
        """Train the head; see `Head.fit`."""
        first, divisor = centring_layer(data.x)
        seeds = np.random.default_rng(options.training.seed).integers(0, 2**31, size=64).tolist()
        features = keras.Input(data.x.shape[1:], name="features")
        last = self.layers(first(features), options, seeds)
        outputs = keras.layers.Dense(
            len(data.class_names), "softmax", name="head_probabilities", **weights(options, seeds)
        )
        model = keras.Model(features, outputs(last), name="head")
        validation = None
        if data.validation_x is not None and data.validation_y is not None:
            validation = Examples(data.validation_y, data.validation_x.__getitem__)
        result = train(model, _training_examples(data), validation, options.training, progress=options.progress)
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

    def fit_from_disk(self, data: HeadData, options: HeadOptions) -> FittedHead:
        """Train the head on batches that are read from disk."""
        fitted = self.fit(data, options)
        how = f"in shuffled batches of {options.training.batch_size}, read from disk in each epoch"
        return dataclasses.replace(fitted, details=fitted.details | {"fitted": how})


def _training_examples(data: HeadData) -> Examples:
    """Return the training examples, in memory or on disk; epochs use several views in turn."""
    if data.stream is not None:
        shuffled = ShuffledRows(data.stream)
        return Examples(data.stream.labels, shuffled.load, order=shuffled.order)
    count = len(data.y) // data.views

    def of_epoch(epoch: int) -> Callable[[Any], Any]:
        first = count * (epoch % data.views)
        return lambda rows: data.x[first + rows]

    return Examples(data.y[:count], data.x.__getitem__, of_epoch=of_epoch if data.views > 1 else None)


def centring_layer(x: np.ndarray) -> tuple[keras.Layer, float]:
    """Return a layer that subtracts each channel's mean and divides all by one number, so that norms average `NORM`.

    Bases differ by orders of magnitude in the size and number of their features, and features after ReLU have large
    means. A step of Adam moves every weight equally, so its effect grows with the sum of the inputs; after centring,
    one learning rate suits all bases. One divisor for all channels keeps those that are nearly always zero small.

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
        raise identical_features()
    divisor = (variance * x[0].size) ** 0.5 / NORM
    variances = np.full(x.shape[-1], divisor**2)
    return normalization((None, *x.shape[1:]), mean, variances, name="head_centring"), divisor


def weights(options: HeadOptions, seeds: list[int]) -> dict[str, Any]:
    """Return the initializer and the regularizer of a layer's weights, with a seed popped from `seeds`."""
    return {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=seeds.pop()),
        "kernel_regularizer": keras.regularizers.L2(options.l2) if options.l2 else None,
    }


def flatten(x: Any) -> Any:
    """Return features flattened to one dimension."""
    return keras.layers.Flatten(name="head_flatten")(x) if len(x.shape) > 2 else x


def hidden_layers(x: Any, options: HeadOptions, seeds: list[int]) -> Any:
    """Add the hidden layers to flattened features."""
    for number, units in enumerate(options.hidden, 1):
        layer = keras.layers.Dense(units, name=f"head_hidden_{number}", **weights(options, seeds))
        x = with_activation(layer(x), f"hidden_{number}", options)
        if options.dropout:
            x = keras.layers.Dropout(options.dropout, seed=seeds.pop(), name=f"head_dropout_{number}")(x)
    return x


def with_activation(x: Any, name: str, options: HeadOptions) -> Any:
    """Add a ReLU, after batch normalisation if requested."""
    if options.batch_norm:
        x = keras.layers.BatchNormalization(name=f"head_{name}_norm")(x)
    return keras.layers.ReLU(name=f"head_{name}_relu")(x)
