"""A run as a base: what fine-tuning made of a base, without its head, to be cut and extracted from as any other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import BaseError, OptionError
from permafrost.trunk.bases import Base, load_model_file
from permafrost.trunk.preprocessing import RULES

if TYPE_CHECKING:
    import keras

MODEL_FILE: Final = "model.keras"
RUN_FILE: Final = "run.json"


def run_folder(base: str) -> Path | None:
    """The run that `base` names, by its folder or by the model in it; None where it names something else."""
    path = Path(base)
    folder = path.parent if path.name == MODEL_FILE else path
    return folder if (folder / MODEL_FILE).is_file() and (folder / RUN_FILE).is_file() else None


def load_run_base(
    folder: str | os.PathLike[str],
    *,
    weights: str | None = None,
    image_size: tuple[int, int] | None = None,
    preprocessing: str | None = None,
) -> Base:
    """The base inside a run's model, from its input to the layer at which the run's features were cut.

    It has the layers of the base that the run came from, by the same names and in the same order, so that what lies
    below the lowest layer that was trained gives the very features that are kept already.

    Args:
        folder: the run's.
        weights: None or `imagenet`, which stands for the run's own; it has no others.
        image_size: height and width in pixels; the run's if None.
        preprocessing: the run's own, or None.

    Raises:
        BaseError: the run is damaged.
        OptionError: other weights or another preprocessing are asked for.
    """
    folder = Path(folder)
    try:
        trunk = json.loads((folder / RUN_FILE).read_bytes())["trunk"]
        name, cut, rule = (str(trunk[key]) for key in ("base", "cut", "preprocessing"))
        size = tuple(map(int, trunk["image_size"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseError(f"damaged run {folder}", found=repr(error), do="fit again") from error
    if weights not in (None, "imagenet"):
        raise OptionError(f"{folder} is a run and has its own weights", do="leave --weights out", found=weights)
    if preprocessing not in (None, rule):
        raise OptionError(f"{folder} is a run of another preprocessing", expected=rule, found=preprocessing)
    height, width = image_size or (size[0], size[1])
    model = load_model_file(folder / MODEL_FILE)
    try:
        start, end = _after_preprocessing(model, rule), model.get_layer(cut).output
    except (KeyError, ValueError, StopIteration) as error:
        raise BaseError(f"{folder / MODEL_FILE} was not exported by permafrost", found=str(error)) from error
    return Base(
        model=_part(start, end, (height, width), name),
        name=name,  # As the base that it came from: stores of what both share have one name.
        weights_source=folder.resolve().name,
        preprocessing=rule,
        image_size=(height, width),
    )


def _after_preprocessing(model: keras.Model, rule: str) -> Any:
    """The tensor that the base itself takes."""
    if RULES[rule] is not None:
        return model.get_layer("preprocessing").output
    return next(operation for operation in model.operations if type(operation).__name__ == "Round").output


def _part(start: Any, end: Any, size: tuple[int, int], name: str) -> keras.Model:
    """What lies between two tensors, as a model with layers of its own, computing in float32."""
    import keras

    inner = keras.Model(start, end)

    def convert(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    pixels = keras.Input((*size, 3), name="pixels_of_the_base", dtype="float32")
    part = keras.models.clone_model(inner, input_tensors=pixels, clone_function=convert)
    part.set_weights(inner.get_weights())
    part.name = name
    return part
