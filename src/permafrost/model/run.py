"""A run: a folder with a fitted model and all that explains it.

model.keras     images in, probabilities out; opens with plain Keras
labels.txt      the classes, one a line, in the order of the probabilities
run.json        what it was made of and how; its parity
metrics.json    figures for each split, with its size
leaderboard.csv heads and settings that were compared; shots.csv: how well few images do; where that was asked for
history.csv     a row for each epoch, or for each setting that was compared
curves.png      the history, drawn
confusion.png   which class was taken for which
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from permafrost.store.feature_set import FeatureSet
from permafrost.trunk.run_base import MODEL_FILE

if TYPE_CHECKING:
    pass


import csv
import hashlib
import io
import json
from typing import TYPE_CHECKING, Final

from permafrost.atomic import clear_leftovers, commit_bytes, sync_folder, temporary_folder, write_errors
from permafrost.errors import RunError, one_line
from permafrost.model.plots import confusion_png, curves_png
from permafrost.trunk.bases import load_model_file
from permafrost.trunk.run_base import RUN_FILE

if TYPE_CHECKING:
    import keras

FORMAT: Final = "permafrost run"
RUN_VERSION: Final = 2
"""The format of a run's folder. `features/README.md` says how to raise it."""

LABELS_FILE: Final = "labels.txt"
METRICS_FILE: Final = "metrics.json"
DEFAULT_FOLDER: Final = "runs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunContent:
    """What a run's folder says beside its model.

    Attributes:
        class_names: the classes.
        about: what it was made of and how: the head, options, features, trunk, parity, seconds.
        metrics: for each split `evaluation.metrics`.
        history: a row for each epoch, or for each setting that was compared.
        title: over the plots.
        tables: more of what was found, each written to a file of its name: `leaderboard.csv`.
    """

    class_names: tuple[str, ...]
    about: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    title: str
    tables: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)


class Run:
    """A run's folder, opened. Made by `fit_head` and `finetune`, opened by `open_run`.

    Attributes:
        folder: the folder.
        class_names: the classes, in the order of the model's probabilities.
        about: the content of `run.json`.
        metrics: the content of `metrics.json`: for each split its figures.
    """

    def __init__(
        self, folder: Path, class_names: tuple[str, ...], about: dict[str, Any], metrics: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.class_names = class_names
        self.about = about
        self.metrics = metrics

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def model_path(self) -> Path:
        """The model's file."""
        return self.folder / MODEL_FILE

    @functools.cached_property
    def model(self) -> keras.Model:
        """The model: images (n, h, w, 3), 0 to 255, in; probabilities (n, classes) out.

        Raises:
            RunError: the file is not the one that the run wrote.
        """
        digest = file_digest(self.model_path)
        if digest != self.about["model_sha256"]:
            raise RunError(
                f"{self.model_path} is not the model that this run wrote",
                expected=f"SHA-256 {self.about['model_sha256'][:12]}",
                found=digest[:12],
                do="fit again, or give the model's file itself",
            )
        return load_model_file(self.model_path)

    def describe(self) -> dict[str, Any]:
        """What `fit-head --json` and `finetune --json` print."""
        return {
            "run": str(self.folder),
            "model": str(self.model_path),
            "metrics": self.metrics,
            "parity": self.about["parity"],
            "seconds": self.about["seconds"],
        }


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open a run's folder.

    Raises:
        RunError: it is none, or is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"no run at {folder}", expected="a folder that fit-head or finetune made")
    missing = [name for name in (RUN_FILE, LABELS_FILE, METRICS_FILE, MODEL_FILE) if not (folder / name).is_file()]
    if missing:
        raise RunError(
            f"{folder} is no run", expected="a folder that fit-head or finetune made", found=f"no {missing[0]} in it"
        )
    try:
        about = json.loads((folder / RUN_FILE).read_bytes())
        figures = json.loads((folder / METRICS_FILE).read_bytes())
        names, _ = tuple(about["class_names"]), figures.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"damaged run {folder}", found=repr(error), do="fit again") from error
    if about.get("format") != FORMAT or about.get("version") != RUN_VERSION:
        raise RunError(f"{folder} is a run of another version", expected=RUN_VERSION, found=about.get("version"))
    return Run(folder, names, about, figures)


def free_folder(out: str | os.PathLike[str] | None, name: str) -> Path:
    """Where a run goes: `out`, or the first of `runs/<name>`, `runs/<name>-2`, ... that is free.

    Raises:
        RunError: `out` is there and is no run: only a run is replaced.
    """
    if out is None:
        folder, number = Path(DEFAULT_FOLDER) / name, 2
        while folder.exists():
            folder, number = Path(DEFAULT_FOLDER) / f"{name}-{number}", number + 1
        return folder
    folder = Path(out)
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / RUN_FILE).is_file())):
        raise RunError(f"{folder} is there and is no run", do="give another --out, or remove it")
    return folder


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` in which a run is put together; it is gone when the block ends.

    What runs that died had begun there is cleared first.
    """
    clear_leftovers(folder.parent)
    with temporary_folder(folder) as stage:
        yield stage


def write_run(folder: Path, stage: Path, content: RunContent, *, replace: bool = True) -> Run:
    """Complete the run in `stage`, which holds its model, and put it in the place of `folder`.

    A new folder appears whole. In one that is there each file is replaced, whole, the model first: a kill in between is
    noticed when the model is opened, since `run.json` holds its digest.

    Args:
        folder: where the run goes.
        stage: from `staging`.
        content: what it says beside its model.
        replace: whether a run that is there is replaced; if not, the next free name is taken.

    Raises:
        WriteError: it cannot be written.
    """
    about = {"format": FORMAT, "version": RUN_VERSION, "class_names": list(content.class_names)} | content.about
    about["model_sha256"] = file_digest(stage / MODEL_FILE)
    shown = next((split for split in ("test", "validation", "train") if content.metrics.get(split, {}).get("n")), None)
    files = {
        LABELS_FILE: "".join(f"{one_line(name)}\n" for name in content.class_names).encode(),
        "history.csv": _csv(content.history),
        "curves.png": curves_png(content.history, content.title),
        METRICS_FILE: _json(content.metrics),
        RUN_FILE: _json(about),
    } | {f"{name}.csv": _csv(rows) for name, rows in content.tables.items()}
    if shown:
        matrix = np.array(content.metrics[shown]["confusion"])
        title = f"{content.title}: {shown}, {content.metrics[shown]['n']:,} images"
        files["confusion.png"] = confusion_png(matrix, content.class_names, title)
    for name, data in files.items():
        commit_bytes(stage / name, data)
    folder = _publish(stage, folder, replace=replace)
    # As it will be read: JSON knows no tuples.
    return Run(folder, content.class_names, json.loads(files[RUN_FILE]), json.loads(files[METRICS_FILE]))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(stage: Path, folder: Path, *, replace: bool) -> Path:
    """Put the files of `stage` into `folder`; returns where they are."""
    with write_errors(folder):
        while True:
            try:
                # Onto an empty folder too: only one with files in it is in the way.
                os.rename(stage, folder)
                break
            except OSError:
                if not folder.is_dir():
                    raise
            if replace:
                names = sorted((path.name for path in stage.iterdir()), key=lambda name: (name != MODEL_FILE, name))
                for name in names:
                    os.replace(stage / name, folder / name)
                sync_folder(folder)
                break
            # Another process has taken the name since it was looked for.
            folder = folder.with_name(f"{folder.name}-2")
        sync_folder(folder.parent)
    return folder


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode("ascii") + b"\n"


def _csv(history: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    if history:
        writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
    return text.getvalue().encode("ascii")


def rounded(**seconds: float) -> dict[str, float]:
    """Durations as a run records them."""
    return {name: round(value, 3) for name, value in seconds.items()}


def features_record(features: FeatureSet) -> dict[str, Any]:
    """What a run remembers of the features that it came from."""
    return {
        "features": os.path.abspath(features.path),
        "features_digest": features.digest,
        "data": features.root,
        "trunk": features.spec.to_json(),
        "key": features.spec.key,
        "libraries": features.about,
    }
