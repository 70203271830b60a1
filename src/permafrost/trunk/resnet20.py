"""ResNet-20, the smallest residual network of He et al. 2015 (arXiv:1512.03385, section 4.2), for 32 x 32 images.

`tools/pretrain_resnet20.py` trains it. Its weights are bundled with this package; see `docs/bundled-base.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import keras

FILTERS: Final = (16, 32, 64)
BLOCKS: Final = 3
CLASSES: Final = 10


def resnet20(
    *, include_top: bool = False, input_shape: tuple[int | None, int | None, int] = (None, None, 3)
) -> keras.Model:
    """Build the network with initial weights.

    It has three stages of three blocks of two 3 x 3 convolutions, each with batch normalization. The shortcut of a
    block that halves height and width is a 1 x 1 convolution: the paper's option B, which needs Keras layers only. The
    paper's own ResNet-20 pads with zeros (option A) and has 1 % fewer weights.

    Args:
        include_top: whether to add the classifier: averaging and a dense layer of ten classes.
        input_shape: height, width, 3; None for any height or width.

    Returns:
        A model from (n, h, w, 3), preprocessed by the rule `tf` (-1 to 1), to (n, h / 4, w / 4, 64), or with the
        classifier to probabilities (n, 10).
    """
    import keras

    pixels = keras.Input(input_shape, name="pixels")
    x = keras.layers.ReLU(name="stem_relu")(_convolved(pixels, FILTERS[0], 3, "stem"))
    for stage, filters in enumerate(FILTERS, start=1):
        for block in range(1, BLOCKS + 1):
            halves = stage > 1 and block == 1
            x = _residual(x, filters, 2 if halves else 1, f"stage{stage}_block{block}")
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="average")(x)
        x = keras.layers.Dense(CLASSES, activation="softmax", name="classifier")(x)
    return keras.Model(pixels, x, name="resnet20_cifar10")


def _residual(x: Any, filters: int, strides: int, name: str) -> Any:
    import keras

    shortcut = _convolved(x, filters, 1, f"{name}_shortcut", strides) if strides > 1 else x
    y = keras.layers.ReLU(name=f"{name}_relu1")(_convolved(x, filters, 3, f"{name}_conv1", strides))
    y = _convolved(y, filters, 3, f"{name}_conv2")
    return keras.layers.ReLU(name=f"{name}_relu2")(keras.layers.Add(name=f"{name}_add")([y, shortcut]))


def _convolved(x: Any, filters: int, kernel: int, name: str, strides: int = 1) -> Any:
    import keras

    convolution = keras.layers.Conv2D(
        filters, kernel, strides, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )
    return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(convolution(x))
