"""Steps from features to probabilities, as Keras layers.

A step is an `Affine` map or a function from one Keras tensor to the next; `to_keras` makes a model of steps, in which
consecutive affine maps become one layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from permafrost.training.metrics import MIN_PROBABILITY


@dataclasses.dataclass(frozen=True)
class Affine:
    """`x @ kernel + bias`, or `x * kernel + bias` if the kernel is one factor per feature.

    Attributes:
        kernel: (d, k) or (d,) float64.
        bias: (k,) or (d,) float64.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Apply the map to x (n, d)."""
        mapped: np.ndarray = (x * self.kernel if self.kernel.ndim == 1 else x @ self.kernel) + self.bias
        return mapped

    def then(self, after: Affine) -> Affine:
        """Return this map followed by another, as one map."""
        if after.kernel.ndim == 1:
            return Affine(self.kernel * after.kernel, self.bias * after.kernel + after.bias)
        kernel = self.kernel[:, None] * after.kernel if self.kernel.ndim == 1 else self.kernel @ after.kernel
        return Affine(kernel, self.bias @ after.kernel + after.bias)

    def to_keras(self, x: Any, name: str, activation: str | None = None) -> Any:
        """Apply the map, as a layer, to a Keras tensor (n, d); one factor per feature takes no activation."""
        if self.kernel.ndim == 1:
            assert activation is None
            # This computes (x - mean) / scale, which is more precise than x / scale - mean / scale.
            return normalization(x.shape, -self.bias / self.kernel, self.kernel**-2.0, name=name)(x)
        layer = keras.layers.Dense(self.kernel.shape[1], activation, name=name)
        outputs = layer(x)
        layer.set_weights([self.kernel.astype(np.float32), self.bias.astype(np.float32)])
        return outputs


Step = Affine | Callable[[Any], Any]


def normalization(
    shape: tuple[int | None, ...],
    mean: np.ndarray,
    variance: np.ndarray,
    *,
    name: str,
    axis: int | tuple[int, ...] = -1,
) -> keras.Layer:
    """Return a layer that subtracts a mean and divides by the square root of a variance.

    Args:
        shape: the shape of its input, with the batch.
        mean, variance: one number per index of `axis`.
        name: its name.
        axis: the axes that have a mean and a variance of their own.
    """
    # Statistics given to the constructor would be written to the model's configuration as text.
    layer = keras.layers.Normalization(axis=axis, name=name)
    layer.build(shape)
    layer.adapt_mean.assign(mean)
    layer.adapt_variance.assign(variance)
    layer.finalize_state()
    return layer


def softmax(x: Any) -> Any:
    """Turn logits (n, classes) into probabilities."""
    return keras.layers.Softmax(name="head_softmax")(x)


def to_keras(steps: Sequence[Step], shape: tuple[int, ...]) -> keras.Model:
    """Return a model from features to the output of the last step.

    Args:
        steps: the steps from flattened features (n, d) to probabilities.
        shape: the shape of one image's features.
    """
    steps = merged(steps)
    features = x = keras.Input(shape, name="features")
    if len(shape) > 1:
        x = keras.layers.Flatten(name="head_flatten")(x)
    for number, step in enumerate(steps, 1):
        following = steps[number] if number < len(steps) else None
        if isinstance(step, Affine) and following is softmax and step.kernel.ndim == 2:
            x = step.to_keras(x, "head_probabilities", "softmax")
            break
        x = step.to_keras(x, f"head_{number}") if isinstance(step, Affine) else step(x)
    return keras.Model(features, x, name="head")


def merged(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with consecutive affine maps merged where that does not add parameters."""
    result: list[Step] = []
    for step in steps:
        before = result[-1] if result else None
        if isinstance(step, Affine) and isinstance(before, Affine):
            one = before.then(step)
            if one.kernel.size <= before.kernel.size + step.kernel.size:
                result[-1] = one
                continue
        result.append(step)
    return result


def apply_temperature(model: keras.Model, factor: float) -> keras.Model:
    """Return a model with the logits of `model` times a factor, an inverse temperature.

    Args:
        model: maps features to probabilities; a last layer that is a softmax `Dense` is changed in place.
        factor: the factor; 1 returns the model unchanged.
    """
    if factor == 1:
        return model
    last = model.layers[-1]
    if isinstance(last, keras.layers.Dense) and last.activation is keras.activations.softmax:
        last.set_weights([factor * weights for weights in last.get_weights()])
        return model
    logits = keras.ops.log(keras.ops.maximum(model.outputs[0], MIN_PROBABILITY))
    calibrated = keras.layers.Rescaling(factor, name="head_temperature")(logits)
    return keras.Model(model.inputs[0], keras.layers.Softmax(name="head_calibrated")(calibrated), name="head")


def as_logits(coefficients: np.ndarray, intercepts: np.ndarray, *, symmetric: bool = False) -> Affine:
    """Return scikit-learn's coefficients (rows, d) and intercepts as a map to logits (n, classes).

    Args:
        coefficients, intercepts: one row per class; a single row for two classes.
        symmetric: whether the logits of two classes are -s and s, as scikit-learn calibrates them, rather than 0 and s.
    """
    coefficients, intercepts = np.atleast_2d(coefficients), np.atleast_1d(intercepts)
    if len(coefficients) == 1:
        first = -1.0 if symmetric else 0.0
        coefficients = np.concatenate([first * coefficients, coefficients])
        intercepts = np.concatenate([first * intercepts, intercepts])
    return Affine(coefficients.T.astype(np.float64), intercepts.astype(np.float64))
