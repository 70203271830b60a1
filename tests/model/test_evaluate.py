"""Metrics of a model on image files: they agree with the run's own, and only the images scored are decoded."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import permafrost as pf
from helpers import one_error_line
from permafrost.errors import DatasetError, OptionError, RunError
from permafrost.images import decoding
from permafrost.model.evaluate import evaluate
from samples import CLASSES, write_photos

pytest_plugins = ["upper"]
pytestmark = pytest.mark.usefixtures("light")


def correct(metrics: dict) -> float:
    return metrics["accuracy"] * metrics["n"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_metrics_on_files_agree_with_the_runs_own(run, split_photos, split):
    metrics = evaluate(run, split_photos, split=split)

    own = run.metrics[split]
    assert metrics["n"] == own["n"]
    assert correct(metrics) == pytest.approx(own["accuracy"] * own["n"], abs=1)
    assert metrics["log_loss"] == pytest.approx(own["log_loss"], abs=0.01)
    assert metrics["classes"].keys() == own["classes"].keys()


def test_metrics_name_their_split_model_and_dataset(run, split_photos):
    metrics = evaluate(run.folder, str(split_photos))

    assert set(metrics) == {
        *("n", "accuracy", "balanced_accuracy", "log_loss", "classes", "confusion"),
        *("calibration_error", "intervals"),
        *("split", "model", "data", "skipped"),
    }
    assert (metrics["split"], metrics["model"], metrics["data"]) == ("test", str(run.folder), str(split_photos))


def test_a_run_its_folder_its_model_file_and_a_model_in_memory_have_the_same_metrics(run, bare, split_photos):
    forms = [run, run.folder, str(run.folder), run.model_path, bare, run.model]

    found = [evaluate(form, split_photos) for form in forms]

    assert all(metrics["log_loss"] == pytest.approx(found[0]["log_loss"], abs=1e-5) for metrics in found)
    assert all(list(metrics["classes"]) == list(CLASSES) for metrics in found)


def test_images_without_a_split_get_the_split_that_extract_gives_them(tiny_base, run, tmp_path):
    data = write_photos(tmp_path / "unsplit", per_class=12)
    features = pf.extract(
        data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "u.h5", test_fraction=0.4, progress=False
    )

    found = {split: evaluate(run, data, split=split, test_fraction=0.4) for split in ("train", "validation", "test")}

    for split, metrics in found.items():
        counts = np.bincount(features.labels(split), minlength=3)
        assert [metrics["classes"][name]["n"] for name in CLASSES] == counts.tolist()


@pytest.mark.parametrize("named", [True, False], ids=["named splits", "splits by content"])
def test_only_images_of_the_split_are_decoded(run, split_photos, tmp_path, named, monkeypatch):
    data = split_photos if named else write_photos(tmp_path / "unsplit", per_class=12)
    decoded = []
    open_image = decoding._open
    monkeypatch.setattr(decoding, "_open", lambda data, *options: decoded.append(data) or open_image(data, *options))

    metrics = evaluate(run, data)

    assert len(decoded) == metrics["n"] > 0


def test_images_of_other_splits_are_not_skipped(run, tmp_path):
    data = write_photos(tmp_path / "unsplit", per_class=12)
    (data / "dots" / "cut.png").write_bytes(b"\x89PNG cut short")

    found = {split: evaluate(run, data, split=split) for split in ("train", "validation", "test")}

    assert sorted(metrics["skipped"] for metrics in found.values()) == [0, 0, 1]


def test_images_that_cannot_be_decoded_are_skipped_and_counted(run, split_photos, tmp_path):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    victim = next((own / "test" / "dots").iterdir())
    victim.write_bytes(victim.read_bytes()[:60])

    metrics = evaluate(run, own)

    assert (metrics["n"], metrics["skipped"]) == (8, 1)


def test_a_dataset_with_some_of_the_classes_is_evaluated_with_the_right_labels(run, split_photos, tmp_path):
    two = tmp_path / "two"
    for kind in ("stripes", "dots"):
        shutil.copytree(split_photos / "test" / kind, two / "test" / kind)
        shutil.copytree(split_photos / "train" / kind, two / "train" / kind)

    metrics = evaluate(run, two)

    assert correct(metrics) == correct(evaluate(run, split_photos)) - 3
    assert {name: values["n"] for name, values in metrics["classes"].items()} == {"checks": 0, "dots": 3, "stripes": 3}
    assert metrics["classes"]["checks"]["recall"] is None


def test_a_class_unknown_to_the_model_is_refused_and_named(run, split_photos, tmp_path):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    (own / "test" / "dots").rename(own / "test" / "spots")

    with pytest.raises(DatasetError) as caught:
        evaluate(run, own)

    assert one_error_line(caught.value) == (
        f"{own} has a class that the model does not know; expected checks, dots, stripes, found spots"
    )


def test_a_model_without_labels_needs_a_dataset_with_as_many_classes(bare, split_photos, tmp_path):
    for split in ("train", "test"):
        for kind in ("dots", "stripes"):
            shutil.copytree(split_photos / split / kind, tmp_path / "two" / split / kind)

    with pytest.raises(RunError, match="the model has a different number of classes; expected 2, found 3"):
        evaluate(bare, tmp_path / "two")


def test_an_unknown_split_is_refused(run, split_photos):
    with pytest.raises(OptionError, match="no such split; expected train, validation, test, found tests"):
        evaluate(run, split_photos, split="tests")


def test_a_split_without_images_is_refused_and_the_splits_with_images_are_named(run, split_photos, tmp_path):
    shutil.copytree(split_photos / "train", tmp_path / "own" / "train")

    with pytest.raises(DatasetError) as caught:
        evaluate(run, tmp_path / "own")

    assert one_error_line(caught.value) == f"no images for test in {tmp_path / 'own'}; found 18 for train"


def test_a_missing_dataset_is_refused(run, tmp_path):
    with pytest.raises(DatasetError, match="no such folder or file"):
        evaluate(run, tmp_path / "nothing")


def test_a_csv_is_evaluated_like_the_folder_it_lists(run, split_photos, tmp_path):
    with open(tmp_path / "test.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for path in sorted((split_photos / "test").rglob("*-*.*")):
            writer.writerow([path, path.parent.name, "test"])

    found, expected = evaluate(run, tmp_path / "test.csv"), evaluate(run, split_photos)

    assert {**found, "data": ""} == {**expected, "data": ""}


def test_a_foreign_model_is_evaluated_with_the_classes_of_the_dataset(colour_model, split_photos):
    # Checks are reddish, dots greenish, stripes bluish: the model tells them apart by colour alone.
    metrics = evaluate(colour_model, split_photos)

    assert list(metrics["classes"]) == list(CLASSES)
    assert metrics["accuracy"] == 1.0
