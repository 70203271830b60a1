"""Any class name and any file name passes unchanged through every file of a run, and escaped through the terminal."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

import permafrost as pf
from permafrost.cli import run as run_command
from permafrost.model.labels import read_labels
from permafrost.model.plots import confusion_png, curves_png
from samples import encoded, texture

pytest_plugins = ["upper"]

FOLDERS = (
    # Public bug reports: label-studio#578, wkentaro/labelme#155.
    *("red, ripe", "Straße \U0001f6b2", "pomme\N{NO-BREAK SPACE}verte", " lead", 'x;y="z"'),
    *("two\nlines", '"quoted"', "caf\udce9", "\u200fright to left", "$x_$", "\u2028", "nan", "ends\r", "\ufeffmark"),
    "-o",
)
"""Names of class folders; the surrogate is a byte that is not UTF-8."""

FILES = ("%03d ü.png", "line\nbreak %d.png", "caf\udce9 %d.png", " %d, x.png", '"%d".png', "\u200f%d.png")


def shade(number: int, seed: int) -> bytes:
    pixels = texture("dots", seed, (12, 12)) // 3 + np.array([number * 11, 160 - number * 10, number * 7], np.uint8)
    return encoded(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """A folder with a folder for each of `FOLDERS`, and files with odd names in it."""
    folder = tmp_path_factory.mktemp("odd") / "odd"
    for number, name in enumerate(FOLDERS):
        os.makedirs(os.path.join(folder, name))
        for seed in range(12):
            Path(folder, name, FILES[seed % len(FILES)] % seed).write_bytes(shade(number, 100 * number + seed))
    return folder


@pytest.fixture(scope="module")
def fitted(odd, tiny_base, tmp_path_factory):
    """A run on `odd`, with its plots."""
    folder = tmp_path_factory.mktemp("odd-run")
    features = pf.extract(odd, base=str(tiny_base), pool="avg", out=folder / "f" / "odd.h5", progress=False)
    return pf.fit_head(features, "ridge", out=folder / "run", progress=False)


def test_class_names_are_the_same_in_every_file_of_a_run(fitted):
    names = tuple(sorted(FOLDERS))

    assert fitted.class_names == pf.open_run(fitted.folder).class_names == names
    assert read_labels(fitted.folder / "labels.txt") == names
    metrics = json.loads((fitted.folder / "metrics.json").read_text())
    assert tuple(metrics["train"]["classes"]) == names


def test_a_plain_reader_of_the_labels_file_finds_all_names_without_line_breaks(fitted):
    lines = (fitted.folder / "labels.txt").read_bytes().split(b"\n")

    assert len(lines) == len(FOLDERS) + 1
    exact = {os.fsencode(name) for name in FOLDERS} - set(map(os.fsencode, ['"quoted"', "two\nlines", "ends\r"]))
    assert exact - {os.fsencode("\ufeffmark")} <= set(lines)


@pytest.mark.parametrize("form", ["run", "model file", "model file elsewhere"])
def test_a_model_is_evaluated_and_predicts_with_any_names(fitted, odd, form, tmp_path):
    model = fitted.folder if form == "run" else fitted.model_path
    if form == "model file elsewhere":
        for name in ("model.keras", "labels.txt"):
            (tmp_path / name).write_bytes((fitted.folder / name).read_bytes())
        model = tmp_path / "model.keras"

    metrics = pf.evaluate(model, odd, split="all")
    answers = pf.predict(model, odd)

    assert tuple(metrics["classes"]) == tuple(sorted(FOLDERS))
    assert metrics["n"] == len(answers) == 12 * len(FOLDERS)
    assert {os.path.relpath(answer["path"], odd).split("/")[0] for answer in answers} == set(FOLDERS)
    right = np.mean([answer["label"] == answer["path"].split("/")[-2] for answer in answers])
    assert right == pytest.approx(metrics["accuracy"])


def test_the_terminal_shows_escapes_and_json_holds_the_names(fitted, odd, capsys):
    assert run_command(["evaluate", str(fitted.folder), str(odd), "--split", "all"]) == 0
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.splitlines())
    assert r"  two\nlines: precision " in text
    assert r"  pomme\xa0verte: precision " in text

    assert run_command(["evaluate", str(fitted.folder), str(odd), "--split", "all", "--json"]) == 0
    assert tuple(json.loads(capsys.readouterr().out)["classes"]) == tuple(sorted(FOLDERS))


def test_an_image_of_any_name_that_cannot_be_decoded_is_one_line(fitted, tmp_path, capsys):
    names = [name % 1 for name in FILES]
    for name in names:
        (tmp_path / name).write_bytes(b"junk")

    assert run_command(["predict", str(fitted.folder), str(tmp_path)]) == 2

    out, err = capsys.readouterr()
    for text in (out, err):
        assert len(text.splitlines()) == len(names)
        assert all(line.isprintable() for line in text.splitlines())


def test_names_from_a_table_and_from_arrays_are_as_they_were_written(tiny_base, tmp_path):
    names = [name for name in FOLDERS if name == name.strip() and name.isprintable()]
    with open(tmp_path / "odd.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for number, name in enumerate(names):
            for seed in range(5):
                path = tmp_path / f"{number}, {seed}.png"
                path.write_bytes(shade(number, seed))
                writer.writerow([path.name, name])
    options = {"base": str(tiny_base), "pool": "avg", "progress": False}
    features = pf.extract(tmp_path / "odd.csv", out=tmp_path / "f" / "a.h5", **options)
    run = pf.fit_head(features, "ridge", out=tmp_path / "run", progress=False)

    assert run.class_names == read_labels(run.folder / "labels.txt") == tuple(sorted(names))
    assert pf.evaluate(run.model_path, tmp_path / "odd.csv")["n"] == len(features.rows("test"))


def test_plots_are_drawn_for_any_name():
    names = [*FOLDERS, "\ud800", "\0", "_hidden", "x" * 400, "\U0001f468\u200d\U0001f469\u200d\U0001f467", "$\\frac{"]

    title = " ".join(names)
    assert confusion_png(np.eye(len(names), dtype=int), names, title).startswith(b"\x89PNG")
    assert curves_png([{"epoch": 1, "loss": 0.5, "accuracy": 0.5}], title).startswith(b"\x89PNG")
