"""Metrics of a model on image files: they agree with the run's own, and only the images scored are decoded."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import keras
import pytest

from helpers import one_error_line
from permafrost.errors import DatasetError, OptionError, RunError
from permafrost.images import decoding
from permafrost.model.evaluate import evaluate
from samples import CLASSES, write_photos

pytest_plugins = ["upper"]
pytestmark = pytest.mark.usefixtures("light")


def without_splits(split_photos: Path, folder: Path) -> Path:
    """Copy all images into one folder per class, under other names."""
    for number, path in enumerate(sorted(split_photos.rglob("*-*.*"))):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.parent.name / f"{number}{path.suffix}")
    return folder


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
        *("split", "model", "data", "images", "known", "unknown_not_scored", "trained_on"),
        *("skipped", "skipped_paths", "notes", "warnings"),
    }
    assert (metrics["split"], metrics["model"], metrics["data"]) == ("test", str(run.folder), str(split_photos))


def test_a_run_its_folder_its_model_file_and_a_model_in_memory_have_the_same_metrics(run, bare, split_photos):
    forms = [run, run.folder, str(run.folder), run.model_path, bare, run.model]

    found = [evaluate(form, split_photos) for form in forms]

    assert all(metrics["log_loss"] == pytest.approx(found[0]["log_loss"], abs=1e-5) for metrics in found)
    assert all(list(metrics["classes"]) == list(CLASSES) for metrics in found)


@pytest.mark.parametrize("named", [True, False], ids=["named splits", "splits by content"])
def test_only_images_of_the_split_are_decoded(run, split_photos, tmp_path, named, monkeypatch):
    data = split_photos if named else without_splits(split_photos, tmp_path / "unsplit")
    decoded = []
    open_image = decoding._open
    monkeypatch.setattr(decoding, "_open", lambda data, *options: decoded.append(data) or open_image(data, *options))

    metrics = evaluate(run, data)

    assert len(decoded) == metrics["n"] == 9


def test_images_of_other_splits_are_not_skipped(run, split_photos, tmp_path):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    (own / "test" / "dots" / "cut.png").write_bytes(b"\x89PNG cut short")

    found = {split: evaluate(run, own, split=split)["skipped"] for split in ("train", "validation", "test", "all")}

    assert found == {"train": 0, "validation": 0, "test": 1, "all": 1}


def test_images_that_cannot_be_decoded_are_skipped_and_counted(run, split_photos, tmp_path):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    victim = next((own / "test" / "dots").iterdir())
    victim.write_bytes(victim.read_bytes()[:60])

    metrics = evaluate(run, own)

    assert (metrics["n"], metrics["skipped"]) == (8, 1)
    assert metrics["skipped_paths"][0]["path"] == str(victim.relative_to(own))


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
        f"{own} has a class that the model does not know; expected checks, dots, stripes, found spots. "
        "Leave the class out, or give it the model's name"
    )


def test_of_many_classes_unknown_to_the_model_the_first_are_named(run, photos, tmp_path):
    for number in range(30):
        shutil.copytree(photos / "dots", tmp_path / "many" / f"kind {number:02}")

    with pytest.raises(DatasetError, match=r"found kind 00, .* kind 19 and 10 more\. Leave"):
        evaluate(run, tmp_path / "many")


def test_a_model_without_labels_needs_a_dataset_with_as_many_classes(bare, split_photos, tmp_path):
    for split in ("train", "test"):
        for kind in ("dots", "stripes"):
            shutil.copytree(split_photos / split / kind, tmp_path / "two" / split / kind)

    with pytest.raises(RunError, match="the model has a different number of classes; expected 2, found 3"):
        evaluate(bare, tmp_path / "two")


def test_an_unknown_split_is_refused(run, split_photos):
    with pytest.raises(OptionError, match="no such split; expected train, validation, test, all, found tests"):
        evaluate(run, split_photos, split="tests")


def test_a_dataset_without_images_of_the_split_is_refused_with_what_the_run_knows_of_it(run, split_photos, tmp_path):
    data = tmp_path / "own"
    shutil.copytree(split_photos / "train", data)
    shutil.copytree(split_photos / "validation" / "dots", data / "dots", dirs_exist_ok=True)
    write_photos(data, per_class=1, first=700)

    with pytest.raises(DatasetError) as caught:
        evaluate(run, data)

    assert one_error_line(caught.value) == (
        f"no test images in {data}; found 24 images, of which the run knows 21 (18 for train, 3 for validation). "
        "Give another --split, or --split all to score every image"
    )


def test_a_dataset_without_images_of_the_split_is_refused_for_a_model_without_a_record(bare, photos):
    with pytest.raises(DatasetError) as caught:
        evaluate(bare, photos, split="validation")

    assert one_error_line(caught.value).startswith(
        f"no validation images in {photos}; found 18 images, none with a spl"
    )


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

    other = {"data": "", "images": 0, "known": 0}
    assert found | other == expected | other


def test_a_foreign_model_is_evaluated_with_the_classes_of_the_dataset(colour_model, split_photos):
    # Checks are reddish, dots greenish, stripes bluish: the model tells them apart by colour alone.
    metrics = evaluate(colour_model, split_photos)

    assert list(metrics["classes"]) == list(CLASSES)
    assert metrics["accuracy"] == 1.0


def test_the_runs_own_split_holds_wherever_the_images_lie_and_whatever_the_dataset_says(run, split_photos, tmp_path):
    expected = {split: evaluate(run, split_photos, split=split) for split in ("train", "validation", "test")}
    elsewhere = without_splits(split_photos, tmp_path / "unsplit")
    swapped = tmp_path / "swapped"
    for split, other in (("train", "test"), ("validation", "train"), ("test", "validation")):
        shutil.copytree(split_photos / split, swapped / other)

    for split, metrics in expected.items():
        for data in (elsewhere, swapped):
            assert evaluate(run, data, split=split)["confusion"] == metrics["confusion"]


def test_an_image_that_is_named_test_but_was_trained_on_is_not_scored_as_test(run, split_photos, tmp_path):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    for number, path in enumerate(sorted((own / "train" / "dots").iterdir())):
        shutil.copy(path, own / "test" / "dots" / f"again-{number}{path.suffix}")
    shutil.copy(next((own / "validation" / "dots").iterdir()), own / "test" / "dots" / "validated.png")

    metrics = evaluate(run, own)

    assert metrics["confusion"] == evaluate(run, split_photos)["confusion"]
    assert metrics["trained_on"] == 0
    assert metrics["warnings"] == ["the run was trained on 6 images that the dataset names test: they count as train"]
    assert metrics["notes"] == ["the run was validated on 1 image that the dataset names test: it counts as validation"]
    assert evaluate(run, own, split="train")["n"] == 24


def test_images_that_the_run_does_not_know_have_the_split_that_the_dataset_names(run, split_photos, tmp_path):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    write_photos(own / "test", per_class=2, first=900)

    metrics = evaluate(run, own)

    assert (metrics["n"], metrics["images"], metrics["known"]) == (15, 42, 36)
    assert metrics["notes"] == metrics["warnings"] == []


def test_images_that_nobody_gives_a_split_are_only_scored_with_all(run, split_photos, tmp_path):
    data = write_photos(without_splits(split_photos, tmp_path / "own"), per_class=2, first=900)

    test, every = evaluate(run, data), evaluate(run, data, split="all")

    assert (test["split"], test["n"], test["unknown_not_scored"], test["trained_on"]) == ("test", 9, 6, 0)
    assert test["notes"] == [
        "6 images are not scored: the run does not know them, and the dataset names no split for them; "
        "--split all scores every image"
    ]
    assert (every["split"], every["n"], every["unknown_not_scored"], every["trained_on"]) == ("all", 42, 0, 18)
    assert every["warnings"] == ["the model was trained on 18 of the 42 images that are scored"]


def test_all_is_the_default_where_the_run_knows_no_image(run, photos, split_photos, tmp_path):
    new = write_photos(tmp_path / "new", per_class=4, first=900)
    write_photos(tmp_path / "named" / "train", per_class=2, first=800)
    write_photos(tmp_path / "named" / "test", per_class=2, first=900)

    unnamed, named = evaluate(run, new), evaluate(run, tmp_path / "named")

    assert (unnamed["split"], unnamed["n"], unnamed["known"], unnamed["trained_on"]) == ("all", 12, 0, 0)
    assert (named["split"], named["n"]) == ("all", 12)
    assert unnamed["notes"] == unnamed["warnings"] == []


def test_without_a_record_the_test_images_that_the_dataset_names_are_the_default(bare, split_photos, photos):
    named, unnamed = evaluate(bare, split_photos), evaluate(bare, photos)

    assert (named["split"], named["n"], named["known"], named["trained_on"]) == ("test", 9, None, None)
    assert (unnamed["split"], unnamed["n"]) == ("all", 18)
    assert (
        named["notes"]
        == unnamed["notes"]
        == [
            "there is no record of what this model was trained on",
            "the model does not name its classes; they are taken to be the dataset's, in order: checks, dots, stripes",
        ]
    )


def test_a_model_without_a_record_is_scored_on_training_images_only_with_a_warning(bare, split_photos, tmp_path):
    shutil.copytree(split_photos / "train", tmp_path / "data" / "train")
    shutil.copytree(split_photos / "validation", tmp_path / "data" / "val")

    found = evaluate(bare, tmp_path / "data")

    assert (found["split"], found["n"]) == ("all", 27)
    assert found["warnings"] == ["18 of the 27 images that are scored are training images of the dataset"]
    assert evaluate(bare, tmp_path / "data", split="validation")["warnings"] == []


def test_a_runs_model_file_has_the_runs_record_but_another_file_in_its_folder_has_none(own_run, split_photos, bare):
    assert evaluate(own_run / "model.keras", split_photos)["known"] == 36
    assert evaluate(shutil.copy(own_run / "model.keras", own_run / "copy.keras"), split_photos)["known"] == 36
    (own_run.parent / "latest.keras").symlink_to(own_run / "model.keras")
    assert evaluate(own_run.parent / "latest.keras", split_photos)["known"] == 36

    model = keras.models.load_model(bare)
    keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0])).save(own_run / "other.keras")
    assert evaluate(own_run / "other.keras", split_photos)["known"] is None


def test_the_model_of_a_run_of_an_older_version_has_no_record(split_photos):
    old = Path(__file__).parents[1] / "formats" / "version-2" / "run" / "model.keras"

    metrics = evaluate(old, split_photos)

    assert (metrics["known"], metrics["n"]) == (None, 9)
    assert metrics["notes"] == ["there is no record of what this model was trained on"]


@pytest.mark.parametrize("content", [b"", b"other"])
def test_a_damaged_record_is_refused_in_one_line(own_run, split_photos, content):
    (own_run / "images.h5").write_bytes(content)

    with pytest.raises(RunError) as caught:
        evaluate(own_run, split_photos)

    assert one_error_line(caught.value).startswith(f"damaged record of a run's images: {own_run / 'images.h5'}; found")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Dots", "Dots (only case or blanks differ from dots)"),
        (" dots\xa0", r" dots\xa0 (only case or blanks differ from dots)"),
        ("dot", "dot"),
    ],
)
def test_a_class_whose_name_differs_in_case_or_blanks_is_refused_and_the_line_says_so(run, tmp_path, name, found):
    write_photos(tmp_path / "new", per_class=1)
    (tmp_path / "new" / "dots").rename(tmp_path / "new" / name)

    with pytest.raises(DatasetError) as caught:
        evaluate(run, tmp_path / "new")

    assert one_error_line(caught.value).endswith(
        f"expected checks, dots, stripes, found {found}. Leave the class out, or give it the model's name"
    )
