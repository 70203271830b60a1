"""A run: a folder with a fitted model and everything that explains it.

model.keras      the model, from images to probabilities; opens with plain Keras
labels.txt       the class names, one per line, in the order of the probabilities
images.h5        what each image was used for, by its content
run.json         how the model was made, and its parity
metrics.json     metrics per split
history.csv      one row per epoch, or per setting that was compared
curves.png       a plot of the history
confusion.png    a plot of the confusion matrix
leaderboard.csv  the heads and settings that were compared, if any
shots.csv        accuracy by the number of training images per class, if requested

These names belong to the run. Replacing a run replaces or removes them all; other files in the folder stay.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from permafrost.atomic import commit_bytes
from permafrost.errors import RunError
from permafrost.model.labels import LABELS_FILE, labels_bytes
from permafrost.model.plots import confusion_png, curves_png
from permafrost.model.publishing import publish
from permafrost.options import as_path
from permafrost.store.feature_set import FeatureSet
from permafrost.store.run_images import IMAGES_FILE, RunImages, read_run_images
from permafrost.trunk.bases import load_model_file
from permafrost.trunk.run_base import MODEL_FILE, RUN_FILE

FORMAT: Final = "permafrost run"
RUN_VERSION: Final = 3
"""The version of the format of a run's folder. `features/README.md` says how to raise it."""

METRICS_FILE: Final = "metrics.json"
HISTORY_FILE: Final = "history.csv"
CURVES_FILE: Final = "curves.png"
CONFUSION_FILE: Final = "confusion.png"
TABLES: Final = ("leaderboard", "shots")
"""The tables that a run may have, each in a CSV file of its name."""

OWN_FILES: Final = frozenset(
    [MODEL_FILE, LABELS_FILE, IMAGES_FILE, RUN_FILE, METRICS_FILE, HISTORY_FILE, CURVES_FILE, CONFUSION_FILE]
    + [f"{name}.csv" for name in TABLES]
)
"""All file names that belong to a run."""

DEFAULT_FOLDER: Final = "runs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunContent:
    """The content of a run's folder, without its model.

    Attributes:
        class_names: the classes, in the order of the model's probabilities.
        about: how the model was made: head, options, features, trunk, parity, seconds.
        images: what each image was used for.
        metrics: the result of `training.metrics.metrics` per split.
        history: one row per epoch, or per setting that was compared.
        title: the title of the plots.
        tables: rows per table; the keys are names in `TABLES`.
    """

    class_names: tuple[str, ...]
    about: dict[str, Any]
    images: RunImages
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    title: str
    tables: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)


def features_record(features: FeatureSet, folder: Path) -> dict[str, Any]:
    """Return what a run in `folder` records about the feature set that it was fitted to.

    The set's path is also recorded relative to the run's folder, so that it stays valid when both move together.
    """
    path = os.path.abspath(features.path)
    return {
        "features": path,
        "features_relative": os.path.relpath(path, os.path.abspath(folder)),
        "features_digest": features.digest,
        "data": features.root,
        "trunk": features.spec.to_json(),
        "key": features.spec.key,
        "libraries": features.about,
    }


class Run:
    """An open run. `fit_head` and `finetune` make runs; `open_run` opens one.

    Attributes:
        folder: the run's folder.
        class_names: the classes, in the order of the model's probabilities.
        about: the content of `run.json`.
        metrics: the content of `metrics.json`: metrics per split.
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
        """The path of the model's file."""
        return self.folder / MODEL_FILE

    @functools.cached_property
    def model(self) -> keras.Model:
        """The model, from images (n, h, w, 3), 0 to 255, to probabilities (n, classes).

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

    @functools.cached_property
    def images(self) -> RunImages:
        """What the run used each image for, by content.

        Raises:
            RunError: the file is damaged, or is not the one that the run wrote.
        """
        return read_run_images(self.folder / IMAGES_FILE, checksum=str(self.about.get("images_checksum")))

    def describe(self) -> dict[str, Any]:
        """Return what `fit-head --json` and `finetune --json` print."""
        return {
            "run": str(self.folder),
            "model": str(self.model_path),
            "metrics": self.metrics,
            "parity": self.about["parity"],
            "notes": self.about["notes"],
            "warnings": self.about["warnings"],
            "seconds": self.about["seconds"],
        }


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open a run's folder.

    Raises:
        RunError: the folder is missing, is not a run, is damaged, or is of another version.
    """
    folder = as_path(folder, "a run")
    expected = "a folder that fit-head or finetune made"
    if not folder.is_dir():
        raise RunError(f"no run at {folder}", expected=expected)
    _require_files(folder, [RUN_FILE], expected)
    try:
        about = json.loads((folder / RUN_FILE).read_bytes())
        if about.get("format") != FORMAT or about.get("version") != RUN_VERSION:
            raise RunError(
                f"{folder} is a run of another version",
                expected=RUN_VERSION,
                found=about.get("version"),
                do="fit again",
            )
        _require_files(folder, [LABELS_FILE, IMAGES_FILE, METRICS_FILE, MODEL_FILE], expected)
        metrics = json.loads((folder / METRICS_FILE).read_bytes())
        names, _ = tuple(about["class_names"]), metrics.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"damaged run {folder}", found=repr(error), do="fit again") from error
    return Run(folder, names, about, metrics)


def _require_files(folder: Path, names: Sequence[str], expected: str) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise RunError(f"{folder} is not a run", expected=expected, found=f"no {missing[0]} in it")


def free_folder(out: str | os.PathLike[str] | None, name: str) -> Path:
    """Return the folder for a new run: `out`, or the first of `runs/<name>`, `runs/<name>-2`, ... that is free.

    Raises:
        RunError: `out` exists and is neither a run nor an empty folder.
    """
    if out is None:
        folder, number = Path(DEFAULT_FOLDER) / name, 2
        while folder.exists():
            folder, number = Path(DEFAULT_FOLDER) / f"{name}-{number}", number + 1
        return folder
    folder = as_path(out, "a run's folder")
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / RUN_FILE).is_file())):
        raise RunError(f"{folder} exists and is not a run", do="give another --out, or remove it")
    return folder


def write_run(folder: Path, stage: Path, content: RunContent, *, replace: bool = True) -> Run:
    """Complete the run in `stage`, which holds its model, and move it to `folder` in one step.

    A process that is killed meanwhile leaves the old run or the new one.

    Args:
        folder: the run's folder.
        stage: the folder from `staging(folder)`.
        content: everything but the model.
        replace: whether to replace a run in `folder`; if False, the run goes to the next free name.

    Raises:
        WriteError: the run cannot be written.
    """
    about = {"format": FORMAT, "version": RUN_VERSION, "class_names": list(content.class_names)} | content.about
    about |= {"model_sha256": file_digest(stage / MODEL_FILE), "images_checksum": content.images.checksum}
    shown = next((split for split in ("test", "validation", "train") if content.metrics.get(split, {}).get("n")), None)
    files = {
        LABELS_FILE: labels_bytes(content.class_names),
        IMAGES_FILE: content.images.to_bytes(),
        HISTORY_FILE: _csv(content.history),
        CURVES_FILE: curves_png(content.history, content.title),
        METRICS_FILE: _json(content.metrics),
        RUN_FILE: _json(about),
    } | {f"{name}.csv": _csv(rows) for name, rows in content.tables.items()}
    if shown:
        matrix = np.array(content.metrics[shown]["confusion"])
        title = f"{content.title}: {shown}, {content.metrics[shown]['n']:,} images"
        files[CONFUSION_FILE] = confusion_png(matrix, content.class_names, title)
    assert files.keys() <= OWN_FILES, "the next run would not remove a file of another name"
    for name, data in files.items():
        commit_bytes(stage / name, data)
    folder = publish(stage, folder, own_files=OWN_FILES, replace=replace)
    # Parsed again, so that a new run and an opened one are equal: JSON has no tuples.
    return Run(folder, content.class_names, json.loads(files[RUN_FILE]), json.loads(files[METRICS_FILE]))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode("ascii") + b"\n"


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    if rows:
        # Minimal quoting leaves "\r" bare, which readers take for the end of a row.
        bare = any("\r" in value for row in rows for value in row.values() if isinstance(value, str))
        writer = csv.DictWriter(
            text, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if bare else csv.QUOTE_MINIMAL
        )
        writer.writeheader()
        writer.writerows(rows)
    # A table may name feature sets, and the bytes of a file's name need not be UTF-8.
    return text.getvalue().encode("utf-8", "surrogateescape")
