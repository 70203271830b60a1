"""A folder to predict: the same walk as for a dataset, and what is skipped is said."""

from __future__ import annotations

import json

import pytest

from permafrost.cli import run as run_command
from permafrost.errors import DatasetError
from permafrost.model.predict import predict
from samples import encoded, texture

pytest_plugins = ["upper"]
pytestmark = pytest.mark.usefixtures("light")


def test_what_is_skipped_in_a_folder_is_said_and_hidden_files_are_never_answered(run, tmp_path, capsys):
    # Public bug reports: pytorch/vision#2831, open-mmlab/mmpretrain#507.
    image = encoded(texture("dots", 1))
    folder = tmp_path / "holiday"
    for name in ("0.png", "day2/1.png", "scan", ".ipynb_checkpoints/0-checkpoint.png", "day2/.1.png", "__MACOSX/0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)
    for name in ("notes.txt", "day2/more.TXT"):
        (folder / name).write_text("mine")
    capsys.readouterr()

    status = run_command(["predict", str(run.folder), str(folder), "--json"])

    out, err = capsys.readouterr()
    assert status == 0
    assert [answer["path"] for answer in json.loads(out)] == [
        str(folder / name) for name in ("0.png", "day2/1.png", "scan")
    ]
    assert err.splitlines() == [
        f"permafrost predict: skipped 2: hidden, such as {folder / '.ipynb_checkpoints'}",
        f"permafrost predict: skipped 2: not an image (.txt), such as {folder / 'day2/more.TXT'}",
        f"permafrost predict: skipped 1: a system folder, such as {folder / '__MACOSX'}",
    ]


def test_a_folder_without_images_to_predict_says_what_is_in_it(run, tmp_path):
    for name in ("1.nef", "2.nef", "notes.txt"):
        (tmp_path / name).write_bytes(b"II*\0")

    with pytest.raises(
        DatasetError, match=r"found 3 other entries, 2 of them: not an image \(\.nef\), such as .*1\.nef"
    ):
        predict(run, tmp_path)
