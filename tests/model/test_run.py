"""A run's folder: its files, its place, its replacement, and the folders that are refused."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import permafrost as pf
from helpers import edit_json, files_below, kill_repeatedly, leftovers, one_error_line, replace_for_ever
from permafrost.errors import RunError, WriteError
from permafrost.model import publishing
from permafrost.model import run as runs
from permafrost.model.labels import LABELS_FILE
from permafrost.model.publishing import staging
from permafrost.model.run import (
    METRICS_FILE,
    MODEL_FILE,
    RUN_FILE,
    RunContent,
    file_digest,
    free_folder,
    open_run,
    write_run,
)
from permafrost.store.run_images import IMAGES_FILE, RunImages

pytest_plugins = ["upper"]

FILES = [
    *("confusion.png", "curves.png", "history.csv", "images.h5"),
    *("labels.txt", "metrics.json", "model.keras", "run.json"),
]
"""The files of a run without tables."""

METRICS = {
    "n": 2,
    "accuracy": 0.5,
    "balanced_accuracy": 0.5,
    "log_loss": 0.7,
    "classes": {},
    "confusion": [[1, 0], [1, 0]],
}


IMAGES = RunImages.of(np.arange(96, dtype=np.uint8).reshape(3, 32), np.array([0, 1, 2]))


def content(title: str = "a run", class_names=("a", "b"), **changes) -> RunContent:
    fields = {
        "about": {"head": "none", "parity": {}, "seconds": {}, "title": title},
        "images": IMAGES,
        "metrics": {"train": METRICS, "validation": {"n": 0}, "test": {"n": 0}},
        "history": [{"epoch": 1, "loss": 0.5}],
    }
    return RunContent(title=title, class_names=class_names, **{**fields, **changes})


def write(folder: Path, model: bytes = b"a model", **changes) -> runs.Run:
    with staging(folder) as stage:
        (stage / MODEL_FILE).write_bytes(model)
        return write_run(folder, stage, content(**changes))


def test_a_run_has_these_files(run):
    assert files_below(run.folder) == FILES


def test_every_file_of_a_run_is_readable_in_its_format(run):
    assert (run.folder / "labels.txt").read_text().split("\n") == ["checks", "dots", "stripes", ""]
    assert set(json.loads((run.folder / "metrics.json").read_text())) == {"train", "validation", "test"}
    with open(run.folder / "history.csv", newline="") as file:
        assert next(csv.DictReader(file)).keys() == {"C", "cross_validation_log_loss", "standard_error"}
    for name in ("curves.png", "confusion.png"):
        with Image.open(run.folder / name) as image:
            assert image.format == "PNG"
    assert keras.models.load_model(run.folder / "model.keras").outputs[0].shape == (None, 3)


def test_an_opened_run_equals_the_run_that_was_written(run):
    opened = open_run(run.folder)

    assert opened.class_names == run.class_names == ("checks", "dots", "stripes")
    assert opened.metrics == run.metrics
    assert opened.about == run.about
    assert repr(opened) == f"Run({str(run.folder)!r})"
    assert opened.describe() == run.describe()


def test_a_moved_run_opens(own_run):
    moved = own_run.rename(own_run.with_name("elsewhere"))

    assert pf.open_run(moved).model.outputs[0].shape == (None, 3)


def test_a_run_records_how_it_was_made(run, features):
    assert run.about["features"] == str(features.path)
    assert run.about["features_digest"] == features.digest
    assert run.about["key"] == features.spec.key
    assert run.about["trunk"] == json.loads(json.dumps(features.spec.to_json()))
    assert run.about["head"] == "logistic"
    assert run.about["model_sha256"] == file_digest(run.model_path)
    assert set(run.about["seconds"]) >= {"total"}


def test_a_missing_folder_is_not_a_run(tmp_path):
    with pytest.raises(RunError) as caught:
        open_run(tmp_path / "nothing")

    line = one_error_line(caught.value)
    assert line == f"no run at {tmp_path / 'nothing'}; expected a folder that fit-head or finetune made"


def test_another_folder_is_not_a_run(photos):
    with pytest.raises(RunError) as caught:
        open_run(photos)

    line = one_error_line(caught.value)
    assert line == f"{photos} is not a run; expected a folder that fit-head or finetune made, found no run.json in it"


@pytest.mark.parametrize("name", [RUN_FILE, LABELS_FILE, IMAGES_FILE, METRICS_FILE, MODEL_FILE])
def test_a_run_without_one_of_its_files_is_refused_and_the_file_named(own_run, name):
    (own_run / name).unlink()

    with pytest.raises(RunError, match=rf"is not a run; .*found no {name} in it"):
        open_run(own_run)


@pytest.mark.parametrize("name", [RUN_FILE, METRICS_FILE])
@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff\xfe", b"[]", b"null"], ids=["empty", "cut", "bytes", "list", "null"]
)
def test_a_run_with_damaged_json_is_refused_in_one_line(own_run, name, damage):
    (own_run / name).write_bytes(damage)

    with pytest.raises(RunError) as caught:
        open_run(own_run)

    line = one_error_line(caught.value)
    assert line.startswith(f"damaged run {own_run}")
    assert line.endswith("Fit again")


@pytest.mark.parametrize("change", [{"version": 1}, {"format": "something else"}])
def test_a_run_of_another_version_is_refused_with_both_versions_whatever_its_fields(own_run, change):
    edit_json(own_run / RUN_FILE, lambda about: about.update(change) or about.pop("class_names"))

    with pytest.raises(RunError, match=rf"is a run of another version; expected 3, found {change.get('version', 3)}"):
        open_run(own_run)


def test_a_changed_model_is_refused_with_both_digests(own_run):
    about = json.loads((own_run / RUN_FILE).read_text())
    model = own_run / MODEL_FILE
    model.write_bytes(model.read_bytes() + b"x")
    opened = open_run(own_run)

    with pytest.raises(RunError) as caught:
        _ = opened.model

    line = one_error_line(caught.value)
    assert f"{model} is not the model that this run wrote" in line
    assert f"expected SHA-256 {about['model_sha256'][:12]}, found {file_digest(model)[:12]}" in line
    assert line.endswith("Fit again, or give the model's file itself")


def test_a_run_goes_to_the_first_free_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    taken = []
    for _ in range(3):
        taken.append(free_folder(None, "photos-dense"))
        taken[-1].mkdir(parents=True)

    assert taken == [Path("runs/photos-dense"), Path("runs/photos-dense-2"), Path("runs/photos-dense-3")]


def test_a_run_goes_to_the_folder_given(tmp_path, own_run):
    (tmp_path / "empty").mkdir()

    assert free_folder(tmp_path / "new", "x") == tmp_path / "new"
    assert free_folder(str(tmp_path / "empty"), "x") == tmp_path / "empty"
    assert free_folder(own_run, "x") == own_run


@pytest.mark.parametrize("kind", ["a folder with a file", "a file"])
def test_only_a_run_or_an_empty_folder_is_replaced(tmp_path, kind):
    place = tmp_path / "thesis"
    if kind == "a file":
        place.write_text("years of work")
    else:
        place.mkdir()
        (place / "chapter.txt").write_text("years of work")

    with pytest.raises(RunError) as caught:
        free_folder(place, "x")

    line = one_error_line(caught.value)
    assert line == f"{place} exists and is not a run. Give another --out, or remove it"


@pytest.mark.parametrize("before", ["nothing", "an empty folder"])
def test_a_new_run_appears_whole(tmp_path, before, monkeypatch):
    folder = tmp_path / "deep" / "run"
    if before == "an empty folder":
        folder.mkdir(parents=True)
    renamed = []
    rename = os.rename
    monkeypatch.setattr(
        os, "rename", lambda source, target: (renamed.append(files_below(source)), rename(source, target))
    )

    write(folder)

    assert renamed == [FILES]
    assert files_below(tmp_path) == ["deep", "deep/run", *(f"deep/run/{name}" for name in FILES)]


@pytest.fixture(params=["in one step", "without a swap"])
def either_way(request, monkeypatch) -> str:
    """Replace runs by a swap of folders, or as on a file system that has none."""
    if request.param == "without a swap":

        def refuse(left: Path, right: Path) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(publishing, "exchange", refuse)
    return request.param


@pytest.mark.usefixtures("either_way")
def test_replacing_a_run_leaves_nothing_of_the_old_one(tmp_path):
    folder = tmp_path / "run"
    rows = [{"head": "logistic"}]
    write(folder, b"old", tables={"leaderboard": rows, "shots": rows})
    assert {"leaderboard.csv", "shots.csv", "confusion.png"} <= set(files_below(folder))

    without_images = {split: {"n": 0} for split in ("train", "validation", "test")}
    write(folder, b"new", title="another", metrics=without_images)

    assert files_below(tmp_path) == ["run", *(f"run/{name}" for name in FILES if name != "confusion.png")]
    assert (folder / MODEL_FILE).read_bytes() == b"new"
    assert open_run(folder).about["title"] == "another"


@pytest.mark.usefixtures("either_way")
def test_files_in_a_runs_folder_that_are_not_the_runs_stay_when_it_is_replaced(tmp_path):
    folder = tmp_path / "run"
    write(folder, b"old")
    (folder / "notes.txt").write_text("my own")
    (folder / "exports" / "empty").mkdir(parents=True)
    (folder / "exports" / "model.onnx").write_text("converted")
    (folder / "latest").symlink_to("exports/model.onnx")

    write(folder, b"new")

    own = ["exports", "exports/empty", "exports/model.onnx", "latest", "notes.txt"]
    assert files_below(folder) == sorted([*FILES, *own])
    assert (folder / "latest").readlink() == Path("exports/model.onnx")
    assert (folder / "notes.txt").read_text() == "my own"
    assert (folder / MODEL_FILE).read_bytes() == b"new"
    assert files_below(tmp_path) == ["run", *(f"run/{name}" for name in files_below(folder))]


def test_files_stay_on_a_file_system_without_hard_links(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    write(folder)
    (folder / "notes.txt").write_text("my own")

    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write(folder, b"new")

    assert (folder / "notes.txt").read_text() == "my own"


def test_a_link_to_a_run_stays_and_the_run_behind_it_is_replaced(tmp_path):
    write(tmp_path / "first", b"old")
    (tmp_path / "latest").symlink_to("first")

    run = write(tmp_path / "latest", b"new")

    assert run.folder == tmp_path / "latest"
    assert (tmp_path / "latest").readlink() == Path("first")
    assert (tmp_path / "first" / MODEL_FILE).read_bytes() == b"new"
    assert leftovers(tmp_path) == []


def test_a_run_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    write(folder, b"old")
    rename = os.rename

    def refuse(source, target):
        if leftovers(tmp_path) and Path(target) == folder and ".tmp-" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(publishing, "exchange", lambda left, right: refuse(left, right))
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(WriteError, match=r"cannot write .*run: Input/output error"):
        write(folder, b"new")

    assert files_below(tmp_path) == ["run", *(f"run/{name}" for name in FILES)]
    assert (folder / MODEL_FILE).read_bytes() == b"old"


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_a_kill_while_a_run_is_replaced_leaves_the_old_run_or_the_new_one(tmp_path, kills):
    folder = tmp_path / "run"
    write(folder, b"3", tables={"shots": [{"model": "3"}]})
    (folder / "notes.txt").write_text("my own")
    killed_within = 0

    for _ in kill_repeatedly(replace_for_ever, folder, lambda: folder.stat().st_ino, kills=kills, within=0.05):
        opened = open_run(folder)
        model = opened.model_path.read_bytes()
        assert opened.about["model_sha256"] == hashlib.sha256(model).hexdigest()
        assert opened.about["title"] == model.decode()
        assert [(folder / name).exists() for name in ("leaderboard.csv", "shots.csv")] == [model == b"1", model == b"2"]
        assert (folder / "notes.txt").read_text() == "my own"
        killed_within += bool(leftovers(tmp_path))

    assert killed_within, "no kill came while a run was being replaced: the test does not test"


def test_a_failure_before_a_run_is_complete_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), staging(tmp_path / "deep" / "run") as stage:
        (stage / MODEL_FILE).write_bytes(b"half")
        raise ZeroDivisionError

    assert [name for name in files_below(tmp_path) if name != "deep"] == []


def test_a_run_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(WriteError) as caught:
        write(tmp_path / "file" / "run")

    line = one_error_line(caught.value)
    assert line.startswith(f"cannot write {tmp_path / 'file' / 'run'}: ")


@pytest.mark.parametrize(
    "name", ["fotos-ä", "fotos-\udcff", 'a, "b"', "two\nlines", "\N{NO-BREAK SPACE}x", "\u200fx", " \U0001f98a", "c\rd"]
)
def test_a_table_may_name_a_feature_set_in_any_way(tmp_path, name):
    run = write(tmp_path / "run", tables={"leaderboard": [{"features": name, "head": "ridge"}]})

    text = (run.folder / "leaderboard.csv").read_bytes().decode("utf-8", "surrogateescape")
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["features", "head"], [name, "ridge"]]


def test_a_run_without_a_history_has_an_empty_file(tmp_path):
    with staging(tmp_path / "run") as stage:
        (stage / MODEL_FILE).write_bytes(b"")
        write_run(tmp_path / "run", stage, content(history=[]))

    assert (tmp_path / "run" / "history.csv").read_bytes() == b""
    assert files_below(tmp_path / "run") == FILES


def test_a_folder_that_another_process_took_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "theirs.txt").write_text("theirs")

    with staging(folder) as stage:
        (stage / MODEL_FILE).write_bytes(b"ours")
        run = write_run(folder, stage, content(), replace=False)

    assert run.folder == tmp_path / "run-2"
    assert [path.name for path in folder.iterdir()] == ["theirs.txt"]
