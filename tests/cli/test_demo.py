"""The command `demo`, on scikit-learn's digits and on a folder of photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from permafrost import open_features
from permafrost.cli import run
from permafrost.cli.demo_job import write_digits


def test_each_digit_is_written_once_and_twenty_per_class_are_for_training(tmp_path):
    folder = Path(write_digits(tmp_path / "digits"))

    counts = {split: len(list((folder / split).rglob("*.png"))) for split in ("train", "validation", "test")}
    assert counts == {"train": 200, "validation": 100, "test": 1497}
    names = [(path.parent.name, path.name) for path in folder.rglob("*.png")]
    assert len(set(names)) == len(names) == 1797


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")
def test_photos_run_through_every_step_and_the_second_extraction_computes_nothing(split_photos, tmp_path, capsys):
    status = run(["demo", str(split_photos), "--out", str(tmp_path / "demo"), "--json"])

    out, err = capsys.readouterr()
    assert status == 0, err
    found = json.loads(out)
    steps = {step["step"]: step for step in found["steps"]}
    assert [step["step"] for step in found["steps"]][:: len(steps) - 1] == ["extract", "the same net from scratch"]
    assert steps["extract"]["result"] == "36 images computed, 0 cached"
    assert steps["extract again"]["result"] == "0 images computed, 36 cached"
    assert steps["finetune from stage3"]["accuracy"] == found["accuracy"]
    assert steps["the same net from scratch"]["accuracy"] == found["from_scratch"]
    assert len(open_features(found["features"])) == 36
    assert {"model.keras", "curves.png", "confusion.png"} <= {path.name for path in Path(found["run"]).iterdir()}
