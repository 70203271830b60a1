"""A run: a folder with a fitted model and everything that explains it.

model.keras      the model, from images to probabilities; opens with plain Keras
labels.txt       the class names, one per line, in the order of the probabilities
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

import contextlib
import csv
import dataclasses
import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from permafrost.atomic import (
    TEMPORARY_PREFIX,
    clear_leftovers,
    commit_bytes,
    exchange,
    sync_folder,
    temporary_folder,
    write_errors,
)
from permafrost.errors import RunError, one_line
from permafrost.model.plots import confusion_png, curves_png
from permafrost.store.feature_set import FeatureSet
from permafrost.trunk.bases import load_model_file
from permafrost.trunk.run_base import MODEL_FILE, RUN_FILE

FORMAT: Final = "permafrost run"
RUN_VERSION: Final = 2
"""The version of the format of a run's folder. `features/README.md` says how to raise it."""

LABELS_FILE: Final = "labels.txt"
METRICS_FILE: Final = "metrics.json"
HISTORY_FILE: Final = "history.csv"
CURVES_FILE: Final = "curves.png"
CONFUSION_FILE: Final = "confusion.png"
TABLES: Final = ("leaderboard", "shots")
"""The tables that a run may have, each in a CSV file of its name."""

OWN_FILES: Final = frozenset(
    [MODEL_FILE, LABELS_FILE, RUN_FILE, METRICS_FILE, HISTORY_FILE, CURVES_FILE, CONFUSION_FILE]
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
        metrics: the result of `training.metrics.metrics` per split.
        history: one row per epoch, or per setting that was compared.
        title: the title of the plots.
        tables: rows per table; the keys are names in `TABLES`.
    """

    class_names: tuple[str, ...]
    about: dict[str, Any]
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

    def describe(self) -> dict[str, Any]:
        """Return what `fit-head --json` and `finetune --json` print."""
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
        RunError: the folder is missing, is not a run, is damaged, or is of another version.
    """
    folder = Path(folder)
    expected = "a folder that fit-head or finetune made"
    if not folder.is_dir():
        raise RunError(f"no run at {folder}", expected=expected)
    missing = [name for name in (RUN_FILE, LABELS_FILE, METRICS_FILE, MODEL_FILE) if not (folder / name).is_file()]
    if missing:
        raise RunError(f"{folder} is not a run", expected=expected, found=f"no {missing[0]} in it")
    try:
        about = json.loads((folder / RUN_FILE).read_bytes())
        if about.get("format") != FORMAT or about.get("version") != RUN_VERSION:
            raise RunError(
                f"{folder} is a run of another version",
                expected=RUN_VERSION,
                found=about.get("version"),
                do="fit again",
            )
        metrics = json.loads((folder / METRICS_FILE).read_bytes())
        names, _ = tuple(about["class_names"]), metrics.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"damaged run {folder}", found=repr(error), do="fit again") from error
    return Run(folder, names, about, metrics)


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
    folder = Path(out)
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / RUN_FILE).is_file())):
        raise RunError(f"{folder} exists and is not a run", do="give another --out, or remove it")
    return folder


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Make a temporary folder beside `folder` in which a run is assembled; remove it when the block ends.

    The staging folders of processes that died are removed first.
    """
    folder = _resolved(folder)
    clear_leftovers(folder.parent)
    with temporary_folder(folder) as stage:
        yield stage


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
    about["model_sha256"] = file_digest(stage / MODEL_FILE)
    shown = next((split for split in ("test", "validation", "train") if content.metrics.get(split, {}).get("n")), None)
    files = {
        LABELS_FILE: "".join(f"{one_line(name)}\n" for name in content.class_names).encode(),
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
    folder = _publish(stage, folder, replace=replace)
    # Parsed again, so that a new run and an opened one are equal: JSON has no tuples.
    return Run(folder, content.class_names, json.loads(files[RUN_FILE]), json.loads(files[METRICS_FILE]))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolved(folder: Path) -> Path:
    """Return `folder` without symbolic links, so that a link to a run stays and its target is replaced."""
    return Path(os.path.realpath(folder))


def _publish(stage: Path, folder: Path, *, replace: bool) -> Path:
    """Move `stage` to `folder` and return the folder that the run is in."""
    with write_errors(folder):
        while True:
            target = _resolved(folder)
            try:
                os.rename(stage, target)  # Replaces an empty folder too.
                break
            except OSError:
                if not target.is_dir():
                    raise
            if replace:
                _carry_over(target, stage)
                _replace(stage, target)
                break
            # Another process took the name after `free_folder` found it free.
            folder = folder.with_name(f"{folder.name}-2")
        sync_folder(target.parent)
    return folder


def _carry_over(folder: Path, stage: Path) -> None:
    """Put the files of `folder` that do not belong to the run into `stage` as well."""
    for path in folder.iterdir():
        if path.name in OWN_FILES or path.name.startswith(TEMPORARY_PREFIX):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, stage / path.name, symlinks=True, copy_function=_link)
        else:
            _link(path, stage / path.name)
    sync_folder(stage)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # The file system has no hard links.
        shutil.copy2(source, target, follow_symlinks=False)


def _replace(stage: Path, folder: Path) -> None:
    """Swap `stage` and `folder`; `staging` then removes the old run with `stage`."""
    try:
        exchange(stage, folder)
    except OSError:
        # Not every file system swaps folders in one step. A kill between the first two renames leaves the old run
        # whole under a name that says so.
        old = folder.with_name(f"{folder.name}.replaced-{os.getpid()}")
        os.rename(folder, old)
        try:
            os.rename(stage, folder)
        except OSError:
            os.rename(old, folder)
            raise
        os.rename(old, stage)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode("ascii") + b"\n"


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    # A table may name feature sets, and a file's name may be no text at all.
    return text.getvalue().encode("utf-8", "backslashreplace")
