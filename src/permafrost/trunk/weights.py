"""Load weights from files into a base, or set random ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from permafrost.errors import WeightsError
from permafrost.process_state import ignored_warnings, standard_output_to_error
from permafrost.trunk.graph import leaves
from permafrost.trunk.published_weights import is_legacy_weights, load_legacy_weights

if TYPE_CHECKING:
    import keras


def set_random_weights(model: keras.Model) -> None:
    """Set the same random weights every time, on every backend. Biases and other vectors keep Keras' initial values.

    Weights are normal with variance 2 / fan-in, which preserves the scale of activations through ReLU layers (He et
    al. 2015, "Delving Deep into Rectifiers").
    """
    import keras

    generator = np.random.default_rng(0)
    for layer in leaves(model):
        for variable in layer.weights:
            shape = tuple(variable.shape)
            if len(shape) < 2:
                continue
            # A depthwise kernel is (h, w, channels, multiplier): each output sees h * w inputs only.
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) or "depthwise" in variable.name
            inputs = shape[:2] if depthwise else shape[:-1]
            deviation = (2 / float(np.prod(inputs))) ** 0.5
            variable.assign((generator.standard_normal(shape) * deviation).astype(np.float32))


def require_weights_file(path: str) -> None:
    """Check that a weights file exists.

    Raises:
        WeightsError: it does not.
    """
    if not os.path.isfile(path):
        raise WeightsError(f"no weights file {path}", expected="imagenet, none, or a file")


def load_weights(model: keras.Model, path: str) -> None:
    """Load weights from a legacy `.h5` of `keras.applications`, or from a `.weights.h5`.

    Raises:
        WeightsError: the file is missing, is of another kind, or does not fit the model.
    """
    require_weights_file(path)
    if is_legacy_weights(path):
        load_legacy_weights(model, path)
    elif path.endswith(".weights.h5"):
        try:
            with quiet_keras():
                model.load_weights(path)
        except Exception as error:
            raise WeightsError(f"the weights in {path} do not fit {model.name}: {error}") from error
    else:
        raise WeightsError(
            f"{path} is not a weights file in a format that Keras publishes",
            expected="a legacy .h5, or .weights.h5",
            do="give a whole model as --base FILE.keras",
        )
    _square_efficientnet_deviation(model)


def _square_efficientnet_deviation(model: keras.Model) -> None:
    """Turn the standard deviation in EfficientNet's published weights into the variance that its first layer expects.

    Keras corrects this with another layer, but only when it downloads the weights itself
    (`keras.applications.efficientnet`).
    """
    import keras

    for layer in model.layers[:3]:
        if isinstance(layer, keras.layers.Normalization) and len(layer.weights) >= 2:
            variance = layer.weights[1]
            value = np.asarray(keras.ops.convert_to_numpy(variance))
            if np.allclose(value.reshape(-1), (0.229, 0.224, 0.225), atol=1e-6):
                variance.assign(value**2)
                layer.finalize_state()


@contextlib.contextmanager
def quiet_keras() -> Iterator[None]:
    """Silence Keras' warnings, and send what it prints to standard error: standard output is for results."""
    with ignored_warnings(), standard_output_to_error:
        yield
