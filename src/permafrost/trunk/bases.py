"""Pretrained bases: one table of their builders, preprocessing and sizes, and the loading of their weights."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.resources
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from permafrost.errors import BaseError, OptionError, WeightsError, nearest
from permafrost.trunk.preprocessing import RULES
from permafrost.trunk.published_weights import is_legacy_weights, load_legacy_weights

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class BaseEntry:
    """A row of the table.

    Attributes:
        builder: its function's name in `keras.applications`, or in `resnet20` where its weights come with the package.
        preprocessing: a name in `preprocessing.RULES`.
        default_size: height and width in pixels that it was trained at.
        minimum_size: the least height and width that its builder takes.
        bundled: the file of its weights in this package, where they come with it.
    """

    builder: str
    preprocessing: str
    default_size: int
    minimum_size: int = 32
    bundled: str | None = None

    @property
    def build(self) -> Callable[..., keras.Model]:
        """The function that builds it, with the arguments of those in `keras.applications`."""
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
"""Every base of `keras.applications`, by its name in snake case, and the one that comes with this package."""

DEFAULT_BASE: Final = "mobilenet_v2"

_NO_FILES: Final = ("imagenet", "bundled", "none")

_NOT_OPTIONS: Final = frozenset(
    ["include_top", "weights", "input_tensor", "input_shape", "pooling", "classes", "classifier_activation", "name"]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """A base, built and with its weights.

    Attributes:
        model: from (n, h, w, 3) to its last layer's output; layers have the names of a freshly started Keras.
        name: as the user gave it, in the table's spelling: `mobilenet:alpha=0.25`, or a file's name.
        weights_source: `imagenet`, `bundled`, `none`, or the weights file's name.
        preprocessing: a name in `preprocessing.RULES`: what its input wants.
        image_size: height and width in pixels.
    """

    model: keras.Model
    name: str
    weights_source: str
    preprocessing: str
    image_size: tuple[int, int]


def load_base(
    base: str,
    *,
    weights: str | None = None,
    image_size: tuple[int, int] | None = None,
    preprocessing: str | None = None,
) -> Base:
    """Build a base and load its weights.

    Args:
        base: a name in `BASES`, options of its builder behind a colon (`mobilenet:alpha=0.25`), or a `.keras` file.
        weights: `imagenet`, `none` (the same random weights every time), or a file: the legacy `.h5` that
            `keras.applications` publishes, with or without the classifier, or a `.weights.h5`. If None the base's own:
            those of ImageNet, those that come with this package, or those in the `.keras` file.
        image_size: height and width in pixels; the base's default size if None.
        preprocessing: a name in `preprocessing.RULES`; if None, that of the table, or of the base that a `.keras` file
            was made from. Only a `.keras` file needs it.

    Raises:
        BaseError: an unknown base, an option it does not have, a size below its minimum, a file that is no model.
        WeightsError: weights that cannot be had, or do not fit.
    """
    import keras

    if keras.config.image_data_format() != "channels_last":
        raise BaseError(
            "Keras is set to put channels first",
            expected="channels_last",
            found="channels_first",
            do="change image_data_format in keras.json",
        )
    if preprocessing is not None and preprocessing not in RULES:
        raise OptionError(f"unknown preprocessing {preprocessing}", expected=", ".join(RULES))
    if image_size is not None and min(image_size) < 1:
        raise OptionError("image size too small", expected="1 px or more", found=f"{image_size[0]}x{image_size[1]}")
    if base.endswith(".keras"):
        return _load_file(base, weights, image_size, preprocessing)
    name, options = parse_base(base)
    entry = BASES[name]
    size = image_size or (entry.default_size, entry.default_size)
    if min(size) < entry.minimum_size:
        raise BaseError(
            f"image size too small for {name}",
            expected=f"at least {entry.minimum_size} px",
            found=f"{size[0]}x{size[1]}",
        )
    wanted = preprocessing or _table_preprocessing(entry, options)
    source = weights or ("bundled" if entry.bundled else "imagenet")
    if source == "imagenet" and entry.bundled:
        raise WeightsError(
            f"{name} was not trained on ImageNet", do="leave --weights out: its own come with Permafrost"
        )
    model = _build(name, entry, options, size, source)
    full_name = name + (":" + ",".join(f"{key}={value}" for key, value in options.items()) if options else "")
    return Base(
        model=model,
        name=full_name,
        weights_source=source if source in _NO_FILES else Path(source).name,
        preprocessing=wanted,
        image_size=size,
    )


def parse_base(text: str) -> tuple[str, dict[str, Any]]:
    """The name in the table, and the builder's options, of `text`: `mobilenet:alpha=0.25,depth_multiplier=1`.

    Raises:
        BaseError: an unknown name or option, told with the nearest ones.
    """
    spelled, _, rest = text.partition(":")
    plain = {name.replace("_", ""): name for name in BASES}
    name = plain.get(re.sub(r"[_-]", "", spelled).lower())
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


def _table_preprocessing(entry: BaseEntry, options: dict[str, Any]) -> str:
    # MobileNetV3, EfficientNetV2 and ConvNeXt can be built without the scaling that is otherwise their first layer.
    if options.get("include_preprocessing", True):
        return entry.preprocessing
    raise BaseError(
        f"{entry.builder} without its own preprocessing needs to be told what its input wants",
        do="leave include_preprocessing out",
    )


def _build(name: str, entry: BaseEntry, options: dict[str, Any], size: tuple[int, int], weights: str) -> keras.Model:
    if weights not in _NO_FILES and not os.path.isfile(weights):
        raise WeightsError(f"no weights file {weights}", expected="imagenet, none, or a file")
    if not entry.bundled:
        options = {**options, "weights": "imagenet" if weights == "imagenet" else None}
    try:
        with _quiet_keras():
            model = entry.build(include_top=False, input_shape=(*size, 3), **options)
    except Exception as error:
        raise _build_error(name, weights, error) from error
    canonical_names(model)
    if weights == "none":
        _set_random_weights(model)
    elif entry.bundled and weights == "bundled":
        with importlib.resources.as_file(importlib.resources.files("permafrost.trunk") / entry.bundled) as path:
            _load_weights(model, str(path))
    elif weights != "imagenet":
        _load_weights(model, weights)
    return model


def _build_error(name: str, weights: str, error: Exception) -> BaseError:
    fetched = re.search(r"URL fetch failure on (\S+?):? ", str(error) + " ")
    if weights == "imagenet" and fetched:
        file = fetched.group(1).rstrip(":").rsplit("/", 1)[-1]
        folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
        return WeightsError(
            f"the imagenet weights of {name} cannot be downloaded",
            do=f"put {file} into {folder}, or pass --weights FILE",
        )
    return BaseError(f"{name} cannot be built: {error}")


def _load_file(path: str, weights: str | None, image_size: tuple[int, int] | None, preprocessing: str | None) -> Base:
    model = load_model_file(path)
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[-1] != 3:
        shapes = ", ".join(str(tensor.shape) for tensor in model.inputs)
        raise BaseError(f"{path} takes no RGB images", expected="one input (n, h, w, 3)", found=shapes)
    if weights is None or weights == "imagenet":
        source = path  # Its own.
    elif weights == "none":
        source = weights
        _set_random_weights(model)
    else:
        source = weights
        _load_weights(model, weights)
    size = image_size or _file_size(model)
    if size is None:
        raise OptionError(f"{path} takes images of any size", do="say which with --image-size")
    return Base(
        model=model,
        name=Path(path).stem,
        weights_source=Path(source).name,
        preprocessing=preprocessing or _file_preprocessing(path, model),
        image_size=size,
    )


def load_model_file(path: str | os.PathLike[str]) -> keras.Model:
    """Open a `.keras` file in safe mode: no code from the file runs.

    Raises:
        BaseError: it is no file, no model, or one without a graph of layers.
    """
    import keras

    if not os.path.isfile(path):
        raise BaseError(f"no model file {path}", expected="a .keras file")
    try:
        with _quiet_keras():
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        # Keras raises whatever its reader meets: ValueError, TypeError, KeyError, OSError, BadZipFile.
        raise BaseError(f"cannot open {path}: {error}", expected="a model that Keras opens in safe mode") from error
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise BaseError(f"{path} has no input shape", do="build the model before saving it")
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    if not hasattr(model, "operations"):
        raise BaseError(f"{path} is no functional or sequential model", found=type(model).__name__)
    return model


def _file_size(model: keras.Model) -> tuple[int, int] | None:
    import keras

    height, width = model.inputs[0].shape[1:3]
    if height is not None and width is not None:
        return int(height), int(width)
    for layer in model.layers[:2]:
        if isinstance(layer, keras.layers.Resizing):
            return int(layer.height), int(layer.width)
    return None


def _file_preprocessing(path: str, model: keras.Model) -> str:
    import keras

    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    if any(isinstance(layer, scaling) for layer in model.layers[:4]):
        return "none"
    entries = {name.replace("_", ""): entry.preprocessing for name, entry in BASES.items()}
    name = re.sub(r"_\d\.\d+_\d+$", "", model.name)  # MobileNets add their width and size: `mobilenet_0.25_224`.
    known = entries.get(re.sub(r"[_-]", "", name).lower())
    if known:
        return known
    raise OptionError(
        f"{path} does not say what its input wants", do=f"say it with --preprocessing: one of {', '.join(RULES)}"
    )


def canonical_names(model: keras.Model) -> None:
    """Give layers that Keras named by counting the names that they have in a freshly started Keras.

    Keras counts over the whole process: the second InceptionV3 built has no `conv2d`, only `conv2d_94`. Then a cut
    named by a layer would depend on what was built before.
    """
    numbered: dict[str, list[tuple[int, Any]]] = {}
    for operation in model.operations:
        prefix = _snake_case(type(operation).__name__)
        match = re.fullmatch(rf"{prefix}(?:_(\d+))?", operation.name)
        if match:
            numbered.setdefault(prefix, []).append((int(match[1] or 0), operation))
    for prefix, members in numbered.items():
        # In the order in which they were made, which is not that of a model with branches.
        for number, (_, operation) in enumerate(sorted(members, key=lambda member: member[0])):
            operation.name = f"{prefix}_{number}" if number else prefix


def _snake_case(name: str) -> str:
    """A class's name as Keras turns it into a layer's: `BatchNormalization` to `batch_normalization`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _set_random_weights(model: keras.Model) -> None:
    """The same random weights every time, on every backend; vectors as Keras starts them.

    Normal with variance 2 / fan-in, which keeps the size of activations through layers with ReLU (He et al. 2015,
    "Delving Deep into Rectifiers").
    """
    import keras

    generator = np.random.default_rng(0)
    for layer in _leaves(model):
        for variable in layer.weights:
            shape = tuple(variable.shape)
            if len(shape) < 2:
                continue
            # A depthwise kernel is (h, w, channels, multiplier): each output sees h * w inputs only.
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) or "depthwise" in variable.name
            inputs = shape[:2] if depthwise else shape[:-1]
            deviation = (2 / float(np.prod(inputs))) ** 0.5
            variable.assign((generator.standard_normal(shape) * deviation).astype(np.float32))


def _leaves(model: keras.Model) -> Iterator[Any]:
    """A model's layers, those of models inside it in their place."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        else:
            yield layer


def _load_weights(model: keras.Model, path: str) -> None:
    if not os.path.isfile(path):
        raise WeightsError(f"no weights file {path}", expected="imagenet, none, or a file")
    if is_legacy_weights(path):
        load_legacy_weights(model, path)
    elif path.endswith(".weights.h5"):
        try:
            with _quiet_keras():
                model.load_weights(path)
        except Exception as error:
            raise WeightsError(f"the weights in {path} do not fit {model.name}: {error}") from error
    else:
        raise WeightsError(
            f"{path} is not in a layout of weights that Keras publishes",
            expected="a legacy .h5, or .weights.h5",
            do="give a whole model as --base FILE.keras",
        )
    _square_efficientnet_deviation(model)


def _square_efficientnet_deviation(model: keras.Model) -> None:
    """Make EfficientNet's first layer divide by the deviation, where a file of the published weights was loaded.

    Those files have ImageNet's standard deviation where the layer expects a variance, and Keras makes up for it by
    another layer, but only where it downloads them itself (`keras.applications.efficientnet`).
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
def _quiet_keras() -> Iterator[None]:
    """Keep what Keras prints off standard output, which belongs to results, and silence its advice on sizes."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
