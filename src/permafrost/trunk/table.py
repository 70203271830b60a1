"""The table of pretrained bases, and the names and options by which users ask for them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import BaseError, nearest

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class BaseEntry:
    """A row of the table.

    Attributes:
        builder: the name of its function in `keras.applications`, or in `resnet20` if it is bundled.
        preprocessing: a name in `preprocessing.RULES`.
        default_size: the height and width in pixels at which it was trained.
        minimum_size: the minimum height and width in pixels.
        bundled: the file with its weights in this package; None if they are not bundled.
    """

    builder: str
    preprocessing: str
    default_size: int
    minimum_size: int = 32
    bundled: str | None = None

    @property
    def build(self) -> Callable[..., keras.Model]:
        """The function that builds the base; it takes the arguments of the builders in `keras.applications`."""
        import keras

        from permafrost.trunk.resnet20 import resnet20

        found: Callable[..., keras.Model] = resnet20 if self.bundled else getattr(keras.applications, self.builder)
        return found


BASES: Final[dict[str, BaseEntry]] = {
    "convnext_tiny": BaseEntry("ConvNeXtTiny", "none", 224),
    "convnext_small": BaseEntry("ConvNeXtSmall", "none", 224),
    "convnext_base": BaseEntry("ConvNeXtBase", "none", 224),
    "convnext_large": BaseEntry("ConvNeXtLarge", "none", 224),
    "convnext_xlarge": BaseEntry("ConvNeXtXLarge", "none", 224),
    "densenet121": BaseEntry("DenseNet121", "torch", 224),
    "densenet169": BaseEntry("DenseNet169", "torch", 224),
    "densenet201": BaseEntry("DenseNet201", "torch", 224),
    "efficientnet_b0": BaseEntry("EfficientNetB0", "none", 224),
    "efficientnet_b1": BaseEntry("EfficientNetB1", "none", 240),
    "efficientnet_b2": BaseEntry("EfficientNetB2", "none", 260),
    "efficientnet_b3": BaseEntry("EfficientNetB3", "none", 300),
    "efficientnet_b4": BaseEntry("EfficientNetB4", "none", 380),
    "efficientnet_b5": BaseEntry("EfficientNetB5", "none", 456),
    "efficientnet_b6": BaseEntry("EfficientNetB6", "none", 528),
    "efficientnet_b7": BaseEntry("EfficientNetB7", "none", 600),
    "efficientnet_v2_b0": BaseEntry("EfficientNetV2B0", "none", 224),
    "efficientnet_v2_b1": BaseEntry("EfficientNetV2B1", "none", 240),
    "efficientnet_v2_b2": BaseEntry("EfficientNetV2B2", "none", 260),
    "efficientnet_v2_b3": BaseEntry("EfficientNetV2B3", "none", 300),
    "efficientnet_v2_s": BaseEntry("EfficientNetV2S", "none", 384),
    "efficientnet_v2_m": BaseEntry("EfficientNetV2M", "none", 480),
    "efficientnet_v2_l": BaseEntry("EfficientNetV2L", "none", 480),
    "inception_resnet_v2": BaseEntry("InceptionResNetV2", "tf", 299, 75),
    "inception_v3": BaseEntry("InceptionV3", "tf", 299, 75),
    "mobilenet": BaseEntry("MobileNet", "tf", 224),
    "mobilenet_v2": BaseEntry("MobileNetV2", "tf", 224),
    "mobilenet_v3_large": BaseEntry("MobileNetV3Large", "none", 224),
    "mobilenet_v3_small": BaseEntry("MobileNetV3Small", "none", 224),
    "nasnet_large": BaseEntry("NASNetLarge", "tf", 331),
    "nasnet_mobile": BaseEntry("NASNetMobile", "tf", 224),
    "resnet20_cifar10": BaseEntry("resnet20", "tf", 32, bundled="resnet20_cifar10.weights.h5"),
    "resnet50": BaseEntry("ResNet50", "caffe", 224),
    "resnet101": BaseEntry("ResNet101", "caffe", 224),
    "resnet152": BaseEntry("ResNet152", "caffe", 224),
    "resnet50_v2": BaseEntry("ResNet50V2", "tf", 224),
    "resnet101_v2": BaseEntry("ResNet101V2", "tf", 224),
    "resnet152_v2": BaseEntry("ResNet152V2", "tf", 224),
    "vgg16": BaseEntry("VGG16", "caffe", 224),
    "vgg19": BaseEntry("VGG19", "caffe", 224),
    "xception": BaseEntry("Xception", "tf", 299, 71),
}
"""All bases of `keras.applications` by their names in snake case, and the bundled one."""

_NOT_OPTIONS: Final = frozenset(
    ["include_top", "weights", "input_tensor", "input_shape", "pooling", "classes", "classifier_activation", "name"]
)


def parse_base(text: str) -> tuple[str, dict[str, Any]]:
    """Split `mobilenet:alpha=0.25,depth_multiplier=1` into the name in `BASES` and the builder's options.

    Case, hyphens and underscores of the name do not matter.

    Raises:
        BaseError: an unknown name or option; the message names the nearest ones.
    """
    spelled, _, rest = text.partition(":")
    name = find_name(spelled)
    if name is None:
        do = "give one of these, or a .keras file"
        raise BaseError(f"unknown base {spelled}", expected=f"a name such as {nearest(spelled, BASES)}", do=do)
    parameters = inspect.signature(BASES[name].build).parameters
    known = [key for key in parameters if key not in _NOT_OPTIONS]
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if key not in known or not equals:
            raise BaseError(f"{name} has no option {item}", expected=" or ".join(f"{k}=..." for k in known) or "none")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise BaseError(f"option {key} of {name}", expected="a number, True or False", found=value) from error
    return name, options


def find_name(spelled: str) -> str | None:
    """Return the name in `BASES`, whatever its case, hyphens and underscores; None if there is no such base."""
    plain = {name.replace("_", ""): name for name in BASES}
    return plain.get(re.sub(r"[_-]", "", spelled).lower())


def full_name(name: str, options: dict[str, Any]) -> str:
    """Join a name and options as `parse_base` splits them."""
    return name + (":" + ",".join(f"{key}={value}" for key, value in options.items()) if options else "")


def preprocessing_of(name: str, options: dict[str, Any]) -> str:
    """Return the preprocessing rule of a base built with `options`.

    Raises:
        BaseError: it is built without its own preprocessing, so that no rule is known.
    """
    # MobileNetV3, EfficientNetV2 and ConvNeXt can be built without the scaling that is otherwise their first layer.
    if options.get("include_preprocessing", True):
        return BASES[name].preprocessing
    raise BaseError(
        f"{name} without its own preprocessing needs a rule",
        do="give one with --preprocessing, or leave include_preprocessing out",
    )
