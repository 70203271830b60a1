"""What the tests of the upper layers do again and again: look into folders and models, change a copied file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from permafrost.model import run as runs
from permafrost.model.assembly import export_model
from permafrost.model.run import RUN_FILE
from permafrost.store.feature_set import FeatureSet
from permafrost.store.store import Store
from permafrost.trunk.cutting import TRUNK_FILE, Trunk, load_trunk


def load_stored_trunk(store: Store) -> Trunk:
    """Load the trunk that lies in a store."""
    return load_trunk(store.folder / TRUNK_FILE, store.spec, store.about["base_layers"])


@contextlib.contextmanager
def compiling(wanted: bool) -> Iterator[None]:
    """Whether TensorFlow compiles functions in this block; other backends compile little."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow

    before = tensorflow.config.functions_run_eagerly()
    tensorflow.config.run_functions_eagerly(not wanted)
    try:
        yield
    finally:
        tensorflow.config.run_functions_eagerly(before)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a JSON file says."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def point_to(folder: Path, features: FeatureSet) -> Path:
    """Make a copy of a run record `features` as its set; return the folder."""
    paths = {"features": str(features.path), "features_relative": os.path.relpath(features.path, folder)}
    edit_json(folder / RUN_FILE, lambda about: about.update(paths))
    return folder


def named_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """A model's weights by layer and name, as arrays of their own."""
    return {
        f"{layer.name}/{variable.name}": np.array(keras.ops.convert_to_numpy(variable))
        for layer in model.layers
        for variable in layer.weights
    }


def changed_layers(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    """The layers of which a weight is not bit for bit what it was."""
    assert before.keys() == after.keys()
    return {name.split("/")[0] for name in before if before[name].tobytes() != after[name].tobytes()}


def files_below(folder: Path) -> list[str]:
    """Everything below a folder, hidden things too, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def leftovers(folder: Path) -> list[str]:
    """What was being written below a folder and never finished."""
    return [name for name in files_below(folder) if ".tmp-" in name]


def one_error_line(error: BaseException) -> str:
    """An error's text, made sure to be one line."""
    text = str(error)
    assert text and "\n" not in text
    return text


def constant_model(value: float) -> keras.Model:
    """A model of some weight, whose weights are all `value`."""
    pixels = keras.Input((8, 8, 3))
    initializer = keras.initializers.Constant(value)
    x = keras.layers.Conv2D(64, 3, kernel_initializer=initializer, bias_initializer=initializer)(pixels)
    x = keras.layers.Conv2D(128, 3, kernel_initializer=initializer, bias_initializer=initializer)(x)
    return keras.Model(pixels, x)


def export_for_ever(path: str) -> None:
    """Export one model and another by turns, until killed."""
    models = constant_model(1.0), constant_model(2.0)
    while True:
        for model in models:
            export_model(model, path)


def replace_for_ever(folder: str) -> None:
    """Replace one run by another by turns, each with a table of its own, until killed."""
    runs.curves_png = runs.confusion_png = lambda *_: b""  # Drawing would take most of the time.
    while True:
        for title, table in (("1", "leaderboard"), ("2", "shots")):
            with runs.staging(Path(folder)) as stage:
                (stage / runs.MODEL_FILE).write_text(title)
                content = runs.RunContent(
                    class_names=("a", "b"),
                    about={"title": title},
                    metrics={},
                    history=[],
                    title=title,
                    tables={table: [{"model": title}]},
                )
                runs.write_run(Path(folder), stage, content)
