"""Build or open pretrained bases and load their weights."""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import BaseError, OptionError, WeightsError
from permafrost.keras_state import keras_defaults
from permafrost.trunk.graph import first_operations
from permafrost.trunk.preprocessing import RULES
from permafrost.trunk.table import BASES, find_name, full_name, parse_base, preprocessing_of
from permafrost.trunk.weights import load_weights, quiet_keras, require_weights_file, set_random_weights

if TYPE_CHECKING:
    import keras


_NO_FILES: Final = ("imagenet", "bundled", "none")
"""Sources of weights that are not paths of files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """A base with its weights.

    Attributes:
        model: from (n, h, w, 3) to the output of the last layer; default layer names are those of a new process.
        name: the user's name in the table's spelling, e.g. `mobilenet:alpha=0.25`, or a file's name.
        weights_source: `imagenet`, `bundled`, `none`, or the weights file's name.
        preprocessing: the rule that prepares its input, a name in `preprocessing.RULES`.
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
    """Build a base from the table, or open one from a file, and load its weights.

    Args:
        base: a name in `BASES`, with options of its builder after a colon (`mobilenet:alpha=0.25`), or a `.keras` file.
        weights: `imagenet`, `none` (random weights, the same every time), or a file: a legacy `.h5` as published by
            `keras.applications`, with or without the classifier, or a `.weights.h5`. If None, the base's own: those of
            ImageNet, the bundled ones, or those in the `.keras` file.
        image_size: height and width in pixels; the base's default size if None.
        preprocessing: a name in `preprocessing.RULES`; only some `.keras` files need it. If None, the table's rule, or
            the rule of the base that a `.keras` file was made from.

    Raises:
        BaseError: an unknown base or option, a size below the minimum, or a file that is not a model.
        WeightsError: weights that are missing or do not fit.
        OptionError: an unknown preprocessing, or a size or preprocessing that the base needs and was not given.
    """
    if preprocessing is not None and preprocessing not in RULES:
        raise OptionError(f"unknown preprocessing {preprocessing}", expected=", ".join(RULES))
    if image_size is not None and min(image_size) < 1:
        raise OptionError("image size too small", expected="1 px or more", found=f"{image_size[0]}x{image_size[1]}")
    if base.endswith(".keras"):
        return _load_file(base, weights, image_size, preprocessing)
    name, options = parse_base(base)
    size = image_size or (BASES[name].default_size, BASES[name].default_size)
    rule = preprocessing or preprocessing_of(name, options)
    source = _require_buildable(name, size, weights)
    return Base(
        model=_build(name, options, size, source),
        name=full_name(name, options),
        weights_source=Path(source).name,
        preprocessing=rule,
        image_size=size,
    )


def _require_buildable(name: str, size: tuple[int, int], weights: str | None) -> str:
    """Check what can be checked before a base is built, and return the source of its weights."""
    entry = BASES[name]
    if min(size) < entry.minimum_size:
        raise BaseError(
            f"image size too small for {name}",
            expected=f"at least {entry.minimum_size} px",
            found=f"{size[0]}x{size[1]}",
        )
    source = weights or ("bundled" if entry.bundled else "imagenet")
    if source == "imagenet" and entry.bundled:
        raise WeightsError(f"{name} was not trained on ImageNet", do="leave --weights out: Permafrost includes its own")
    if source not in _NO_FILES:
        require_weights_file(source)
    return source


def _build(name: str, options: dict[str, Any], size: tuple[int, int], weights: str) -> keras.Model:
    entry = BASES[name]
    if not entry.bundled:
        options = {**options, "weights": "imagenet" if weights == "imagenet" else None}
    try:
        with quiet_keras():
            model = entry.build(include_top=False, input_shape=(*size, 3), **options)
    except Exception as error:
        raise _build_error(name, weights, error) from error
    canonical_names(model)
    if weights == "none":
        set_random_weights(model)
    elif entry.bundled and weights == "bundled":
        with importlib.resources.as_file(importlib.resources.files("permafrost.trunk") / entry.bundled) as path:
            load_weights(model, str(path))
    elif weights != "imagenet":
        load_weights(model, weights)
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
        raise BaseError(f"{path} does not take RGB images", expected="one input (n, h, w, 3)", found=shapes)
    if weights is None or weights == "imagenet":
        source = path  # Its own.
    elif weights == "none":
        source = weights
        set_random_weights(model)
    else:
        source = weights
        load_weights(model, weights)
    size = image_size or _file_size(model)
    if size is None:
        raise OptionError(f"{path} takes images of any size", do="give one with --image-size")
    return Base(
        model=model,
        name=Path(path).stem,
        weights_source=Path(source).name,
        preprocessing=preprocessing or _file_preprocessing(path, model),
        image_size=size,
    )


@keras_defaults()
def load_model_file(path: str | os.PathLike[str]) -> keras.Model:
    """Open a `.keras` file in safe mode: no code from the file runs.

    Raises:
        BaseError: the file is missing, is not a model, or is a model without a graph of layers.
    """
    import keras

    if not os.path.isfile(path):
        raise BaseError(f"no model file {path}", expected="a .keras file")
    try:
        with quiet_keras():
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        # Keras passes on the errors of its readers: ValueError, TypeError, KeyError, OSError, BadZipFile.
        raise _cannot_open(path, error) from error
    return as_graph(model, str(path))


def _cannot_open(path: str | os.PathLike[str], error: Exception) -> BaseError:
    """Return the error for a file that Keras does not open; its own messages are several lines long."""
    expected, custom = "a model that Keras opens in safe mode", re.search(r"Could not locate class '(\w+)'", str(error))
    if "`Lambda`" in str(error):
        do = "replace the layer by functions of keras.ops or by other layers, and save the model again"
        return BaseError(f"cannot open {path}: it has a Lambda layer, whose code is not run", expected=expected, do=do)
    if custom:
        do = "rebuild the model of Keras' own layers, or register the class in this process"
        return BaseError(f"cannot open {path}: it has the custom class {custom[1]}", expected=expected, do=do)
    if not zipfile.is_zipfile(path):
        return BaseError(f"cannot open {path}: it is not in the .keras format", expected=expected)
    reason = str(error).strip("'\" ").split("\n")[0]
    return BaseError(f"cannot open {path}: {reason}", expected=expected)


def as_graph(model: keras.Model, name: str) -> keras.Model:
    """Return a model as a functional one.

    Args:
        model: any Keras model.
        name: its name, for errors.

    Raises:
        BaseError: it has no graph of layers.
    """
    import keras

    if isinstance(model, keras.Sequential):
        if not model.built:
            raise BaseError(f"{name} has no input shape", do="build the model before saving it")
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not hasattr(model, "operations"):
        raise BaseError(f"{name} is not a functional or sequential model", found=type(model).__name__)
    return model


def _file_size(model: keras.Model) -> tuple[int, int] | None:
    """Return the image size that a model is made for; None if it accepts any size."""
    import keras

    height, width = model.inputs[0].shape[1:3]
    if height is not None and width is not None:
        return int(height), int(width)
    for layer in first_operations(model):
        if isinstance(layer, keras.layers.Resizing):
            return int(layer.height), int(layer.width)
    return None


def _file_preprocessing(path: str, model: keras.Model) -> str:
    """Return the rule of a model: `none` if it scales its own input, or else the rule of the base of that name."""
    import keras

    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    if any(isinstance(layer, scaling) for layer in first_operations(model)):
        return "none"
    known = find_name(re.sub(r"_\d\.\d+_\d+$", "", model.name))  # MobileNets add width and size: `mobilenet_0.25_224`
    if known:
        return BASES[known].preprocessing
    raise OptionError(
        f"the preprocessing of {path} is unknown", do=f"give --preprocessing with one of {', '.join(RULES)}"
    )


def canonical_names(model: keras.Model) -> None:
    """Rename layers with default names to the names that they get in a new process.

    Keras numbers default names across the whole process: in the second InceptionV3 that is built, `conv2d` is called
    `conv2d_94`. Without this the name of a cut would depend on the models built earlier.
    """
    numbered: dict[str, list[tuple[int, Any]]] = {}
    for operation in model.operations:
        prefix = _snake_case(type(operation).__name__)
        match = re.fullmatch(rf"{prefix}(?:_(\d+))?", operation.name)
        if match:
            numbered.setdefault(prefix, []).append((int(match[1] or 0), operation))
    for prefix, members in numbered.items():
        # In the order of creation, which differs from the order of layers in a model with branches.
        for number, (_, operation) in enumerate(sorted(members, key=lambda member: member[0])):
            operation.name = f"{prefix}_{number}" if number else prefix


def _snake_case(name: str) -> str:
    """Convert a class name as Keras does for layer names: `BatchNormalization` to `batch_normalization`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
