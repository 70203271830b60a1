"""The gradient of convolutions on a processor, where TensorFlow's own takes twice as long as it has to.

What a convolution of stride 1 with odd kernel and padding hands down to its input is itself such a convolution: of the
gradient from above, with the kernel turned round and its channels exchanged (Dumoulin and Visin 2016, "A guide to
convolution arithmetic for deep learning", relationship 9). TensorFlow runs the forward convolution by a quicker routine
than `Conv2DBackpropInput`; the numbers are the same but for rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from permafrost.engines.device import tensorflow_on_processor


@contextlib.contextmanager
def quick_gradients(model: keras.Model) -> Iterator[None]:
    """In this block, what is compiled of `model` computes the gradient of its convolutions the quicker way.

    On TensorFlow and a processor alone; elsewhere nothing changes.
    """
    layers = [layer for layer in model.layers if suits(layer)] if tensorflow_on_processor() else []
    for layer in layers:
        layer.convolution_op = convolve
    try:
        yield
    finally:
        for layer in layers:
            del layer.convolution_op


def suits(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a convolution whose gradient is one, too."""
    return (
        type(layer) is keras.layers.Conv2D
        and layer.padding == "same"
        and set(layer.strides) == set(layer.dilation_rate) == {1}
        and all(length % 2 for length in layer.kernel_size)
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )


def convolve(inputs: Any, kernel: Any) -> Any:
    """A convolution of stride 1 that keeps height and width, with a gradient of its own.

    Args:
        inputs: (n, h, w, channels).
        kernel: (height, width, channels, filters), height and width odd.

    Returns:
        (n, h, w, filters).
    """
    import tensorflow

    @tensorflow.custom_gradient  # type: ignore[untyped-decorator]
    def convolution(inputs: Any, kernel: Any) -> Any:
        def gradient(above: Any) -> tuple[Any, Any]:
            turned = tensorflow.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))
            of_kernel = tensorflow.raw_ops.Conv2DBackpropFilter(
                input=inputs,
                filter_sizes=tensorflow.shape(kernel),
                out_backprop=above,
                strides=[1, 1, 1, 1],
                padding="SAME",
            )
            return tensorflow.nn.conv2d(above, turned, 1, "SAME"), of_kernel

        return tensorflow.nn.conv2d(inputs, kernel, 1, "SAME"), gradient

    # A tensor, as TensorFlow would ask a gradient for those of the variables that it meets.
    return convolution(inputs, tensorflow.convert_to_tensor(kernel))
