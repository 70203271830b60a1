"""A run as a base: the base inside a run's model, fine-tuned or not, can be cut like any other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from permafrost.errors import BaseError, OptionError
from permafrost.trunk.bases import Base, load_model_file
from permafrost.trunk.graph import copy_with_policy
from permafrost.trunk.preprocessing import RULES

if TYPE_CHECKING:
    import keras

MODEL_FILE: Final = "model.keras"
RUN_FILE: Final = "run.json"


def run_folder(base: str) -> Path | None:
    """Return the folder of the run that `base` names, by its folder or its model file; None if it names no run.

    A `~` at the start of `base` is the home.
    """
    path = Path(os.path.expanduser(base))
    folder = path.parent if path.name == MODEL_FILE else path
    return folder if (folder / MODEL_FILE).is_file() and (folder / RUN_FILE).is_file() else None


def load_run_base(
    folder: str | os.PathLike[str],
    *,
    weights: str | None = None,
    image_size: tuple[int, int] | None = None,
    preprocessing: str | None = None,
) -> Base:
    """Return the base inside a run's model, from its input to the layer at which the run's features were cut.

    Its layers have the names and the order of the base that the run came from. So below the lowest layer that was
    trained, its features equal those already cached.

    Args:
        folder: the run's folder.
        weights: None or `imagenet`: both mean the run's own weights.
        image_size: height and width in pixels; the run's if None.
        preprocessing: the run's own, or None.

    Raises:
        BaseError: the run is damaged.
        OptionError: other weights, or another preprocessing.
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
        raise OptionError(f"{folder} is a run with another preprocessing", expected=rule, found=preprocessing)
    height, width = image_size or (size[0], size[1])
    model = load_model_file(folder / MODEL_FILE)
    try:
        start, end = _after_preprocessing(model, rule), model.get_layer(cut).output
    except (KeyError, ValueError, StopIteration) as error:
        raise BaseError(f"{folder / MODEL_FILE} was not exported by permafrost", found=str(error)) from error
    return Base(
        model=_part(start, end, (height, width), name),
        name=name,  # The name of the original base: both share the stores of the layers below the trained ones.
        weights_source=folder.resolve().name,
        preprocessing=rule,
        image_size=(height, width),
    )


def _after_preprocessing(model: keras.Model, rule: str) -> Any:
    """Return the input tensor of the base in a run's model."""
    if RULES[rule] is not None:
        return model.get_layer("preprocessing").output
    return next(operation for operation in model.operations if type(operation).__name__ == "Round").output


def _part(start: Any, end: Any, size: tuple[int, int], name: str) -> keras.Model:
    """Return a copy of the layers between two tensors as a model that computes in float32."""
    import keras

    pixels = keras.Input((*size, 3), name="pixels_of_the_base", dtype="float32")
    part = copy_with_policy(keras.Model(start, end), "float32", pixels=pixels)
    part.name = name
    return part
