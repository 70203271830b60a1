"""Helpers of several tests: look into folders and models, change copied files."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from permafrost.model import run as runs
from permafrost.model.assembly import export_model
from permafrost.model.publishing import staging
from permafrost.model.run import RUN_FILE
from permafrost.store.feature_set import FeatureSet
from permafrost.store.run_images import RunImages
from permafrost.store.store import Store
from permafrost.trunk.cutting import TRUNK_FILE, Trunk, load_trunk


def load_stored_trunk(store: Store) -> Trunk:
    """Load the trunk of a store."""
    return load_trunk(store.folder / TRUNK_FILE, store.spec, store.about["base_layers"])


@contextlib.contextmanager
def compiling(wanted: bool) -> Iterator[None]:
    """Switch TensorFlow's compilation of functions on or off in this block; other backends compile little."""
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
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def point_to(folder: Path, features: FeatureSet) -> Path:
    """Make a copy of a run record `features` as its set; return the folder."""
    paths = {"features": str(features.path), "features_relative": os.path.relpath(features.path, folder)}
    edit_json(folder / RUN_FILE, lambda about: about.update(paths))
    return folder


def named_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Return copies of a model's weights by layer and name."""
    return {
        f"{layer.name}/{variable.name}": np.array(keras.ops.convert_to_numpy(variable))
        for layer in model.layers
        for variable in layer.weights
    }


def same_weights(left: keras.Model, right: keras.Model) -> bool:
    """Return whether two models have equal weights in the same order."""
    return all(np.array_equal(a, b) for a, b in zip(left.get_weights(), right.get_weights(), strict=True))


def changed_layers(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    """Return the layers with a weight that has changed in any bit."""
    assert before.keys() == after.keys()
    return {name.split("/")[0] for name in before if before[name].tobytes() != after[name].tobytes()}


def close(left: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    """Return whether features agree relative to the largest one."""
    return bool(np.abs(left - right).max() <= tolerance * np.abs(right).max())


def files_below(folder: Path) -> list[str]:
    """Return the relative paths of everything below a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files below a folder."""
    return [name for name in files_below(folder) if ".tmp-" in name]


def one_error_line(error: BaseException) -> str:
    """Return an error's text, after asserting that it is one line."""
    text = str(error)
    assert text and "\n" not in text
    return text


def constant_model(value: float) -> keras.Model:
    """Return a model whose weights all equal `value`, large enough to take time to save."""
    pixels = keras.Input((8, 8, 3))
    initializer = keras.initializers.Constant(value)
    x = keras.layers.Conv2D(64, 3, kernel_initializer=initializer, bias_initializer=initializer)(pixels)
    x = keras.layers.Conv2D(128, 3, kernel_initializer=initializer, bias_initializer=initializer)(x)
    return keras.Model(pixels, x)


def kill_repeatedly(
    work: Callable[[str], object], path: Path, progress: Callable[[], int], *, kills: int, within: float
) -> Iterator[None]:
    """Kill processes that write without end, each at a random moment; yield after each kill.

    Args:
        work: what each process does with `path`, without end.
        path: what it writes.
        progress: returns a number that changes when a process has written `path` for the first time.
        kills: number of processes.
        within: maximum number of seconds from that change to the kill.
    """
    # Keras is imported once, by the process that the others are forked from.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["permafrost.model.assembly", "permafrost.store.feature_set", "permafrost.model.run"]
    )
    randomness = random.Random(0)
    for _ in range(kills):
        before = progress()
        process = context.Process(target=work, args=(str(path),), daemon=True)
        process.start()
        while progress() == before:
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(randomness.uniform(0, within))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        yield


def export_for_ever(path: str) -> None:
    """Export two models alternately until killed."""
    models = constant_model(1.0), constant_model(2.0)
    while True:
        for model in models:
            export_model(model, path)


def replace_for_ever(folder: str) -> None:
    """Replace a run by two others alternately, each with its own table, until killed."""
    runs.curves_png = runs.confusion_png = lambda *_: b""  # Drawing would take most of the time.
    while True:
        for title, table in (("1", "leaderboard"), ("2", "shots")):
            with staging(Path(folder)) as stage:
                (stage / runs.MODEL_FILE).write_text(title)
                content = runs.RunContent(
                    class_names=("a", "b"),
                    about={"title": title},
                    images=RunImages.of(np.zeros((1, 32), np.uint8), np.zeros(1)),
                    metrics={},
                    history=[],
                    title=title,
                    tables={table: [{"model": title}]},
                )
                runs.write_run(Path(folder), stage, content)
