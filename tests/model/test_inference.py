"""Using a model: figures on images agree with the run's own, and answers come with the right names."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import permafrost as pf
from helpers import one_error_line
from permafrost.errors import BaseError, DatasetError, OptionError, RunError
from permafrost.model.inference import evaluate, open_model, predict
from permafrost.model.run import LABELS_FILE
from samples import CLASSES, encoded, texture, write_photos

pytest_plugins = ["upper"]
pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory) -> Path:
    """A stranger's model of a fixed size: which of red, green and blue an image has most of."""
    pixels = keras.Input((10, 12, 3))
    scaled = keras.layers.Rescaling(1 / 8)(keras.layers.GlobalAveragePooling2D()(pixels))
    path = tmp_path_factory.mktemp("stranger") / "colours.keras"
    keras.Model(pixels, keras.layers.Softmax()(scaled)).save(path)
    return path


@pytest.fixture
def bare(run, tmp_path) -> Path:
    """The run's model alone, elsewhere."""
    return Path(shutil.copy(run.model_path, tmp_path / "mine.keras"))


@pytest.fixture
def holiday(tmp_path) -> Path:
    """Images in no class, in a folder with another and with things that are no images."""
    folder = tmp_path / "holiday"
    (folder / "second-day").mkdir(parents=True)
    for number, kind in enumerate(("dots", "stripes")):
        (folder / f"{number}.png").write_bytes(encoded(texture(kind, 300 + number)))
    (folder / "second-day" / "2.JPG").write_bytes(encoded(texture("checks", 302), "JPEG"))
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".thumbs").mkdir()
    (folder / ".thumbs" / "0.png").write_bytes(encoded(texture("dots", 300)))
    (folder / "notes.txt").write_text("rain")
    return folder


def guesses_right(figures: dict) -> float:
    return figures["accuracy"] * figures["n"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_figures_on_the_files_agree_with_the_runs_own(run, split_photos, split):
    figures = evaluate(run, split_photos, split=split)

    own = run.metrics[split]
    assert figures["n"] == own["n"]
    assert guesses_right(figures) == pytest.approx(own["accuracy"] * own["n"], abs=1)
    assert figures["log_loss"] == pytest.approx(own["log_loss"], abs=0.01)
    assert figures["classes"].keys() == own["classes"].keys()


def test_figures_say_what_they_are_of(run, split_photos):
    figures = evaluate(run.folder, str(split_photos))

    assert set(figures) == {
        *("n", "accuracy", "balanced_accuracy", "log_loss", "classes", "confusion"),
        *("calibration_error", "intervals"),
        *("split", "model", "data", "skipped"),
    }
    assert (figures["split"], figures["model"], figures["data"]) == ("test", str(run.folder), str(split_photos))


def test_a_run_its_folder_its_model_and_a_model_in_memory_give_the_same_figures(run, bare, split_photos):
    forms = [run, run.folder, str(run.folder), run.model_path, bare, run.model]

    found = [evaluate(form, split_photos) for form in forms]

    assert all(figures["log_loss"] == pytest.approx(found[0]["log_loss"], abs=1e-5) for figures in found)
    assert all(list(figures["classes"]) == list(CLASSES) for figures in found)


def test_the_split_of_images_that_name_none_is_that_of_extract(tiny_base, run, tmp_path):
    data = write_photos(tmp_path / "unsplit", per_class=12)
    features = pf.extract(
        data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "u.h5", test_fraction=0.4, progress=False
    )

    found = {split: evaluate(run, data, split=split, test_fraction=0.4) for split in ("train", "validation", "test")}

    for split, figures in found.items():
        counts = np.bincount(features.labels(split), minlength=3)
        assert [figures["classes"][name]["n"] for name in CLASSES] == counts.tolist()


def test_images_that_cannot_be_decoded_are_counted_and_left_out(run, split_photos, tmp_path):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    victim = next((own / "test" / "dots").iterdir())
    victim.write_bytes(victim.read_bytes()[:60])

    figures = evaluate(run, own)

    assert (figures["n"], figures["skipped"]) == (8, 1)


def test_some_of_the_classes_are_evaluated_with_the_right_labels(run, split_photos, tmp_path):
    two = tmp_path / "two"
    for kind in ("stripes", "dots"):
        shutil.copytree(split_photos / "test" / kind, two / "test" / kind)
        shutil.copytree(split_photos / "train" / kind, two / "train" / kind)

    figures = evaluate(run, two)

    assert guesses_right(figures) == guesses_right(evaluate(run, split_photos)) - 3
    assert {name: values["n"] for name, values in figures["classes"].items()} == {"checks": 0, "dots": 3, "stripes": 3}
    assert figures["classes"]["checks"]["recall"] is None


def test_a_class_that_the_model_does_not_know_is_refused_and_named(run, split_photos, tmp_path):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    (own / "test" / "dots").rename(own / "test" / "spots")

    with pytest.raises(DatasetError) as caught:
        evaluate(run, own)

    assert one_error_line(caught.value) == (
        f"{own} has a class that the model does not know; expected checks, dots, stripes, found spots"
    )


def test_a_model_without_labels_needs_data_with_as_many_classes(bare, split_photos, tmp_path):
    for split in ("train", "test"):
        for kind in ("dots", "stripes"):
            shutil.copytree(split_photos / split / kind, tmp_path / "two" / split / kind)

    with pytest.raises(RunError, match="the model has another number of classes; expected 2, found 3"):
        evaluate(bare, tmp_path / "two")


def test_labels_beside_a_model_are_its_classes(bare, split_photos):
    bare.with_name(LABELS_FILE).write_text("stripes\ndots\nchecks\n")

    assert open_model(bare)[1] == ("stripes", "dots", "checks")
    assert list(evaluate(bare, split_photos)["classes"]) == ["stripes", "dots", "checks"]


def test_a_split_that_there_is_not_is_refused(run, split_photos):
    with pytest.raises(OptionError, match="no such split; expected train, validation, test, found tests"):
        evaluate(run, split_photos, split="tests")


def test_a_split_without_images_is_refused_with_those_that_have_some(run, split_photos, tmp_path):
    shutil.copytree(split_photos / "train", tmp_path / "own" / "train")

    with pytest.raises(DatasetError) as caught:
        evaluate(run, tmp_path / "own")

    assert one_error_line(caught.value) == f"no images for test in {tmp_path / 'own'}; found 18 for train"


def test_data_that_is_not_there_is_refused(run, tmp_path):
    with pytest.raises(DatasetError, match="no such folder or file"):
        evaluate(run, tmp_path / "nothing")


@pytest.mark.parametrize("form", ["nothing", "nothing.keras", "an image", "a folder"])
def test_what_is_neither_run_nor_model_is_refused(form, split_photos, tmp_path):
    image = next((split_photos / "test" / "dots").iterdir())
    place = {"an image": image, "a folder": split_photos}.get(form, tmp_path / form)

    for act in (lambda: evaluate(place, split_photos), lambda: predict(place, [image])):
        with pytest.raises(RunError) as caught:
            act()
        assert str(place) in one_error_line(caught.value)
        assert "run" in str(caught.value)


def test_a_file_that_only_says_that_it_is_a_model_is_refused(split_photos, tmp_path):
    (tmp_path / "fake.keras").write_bytes(b"PK\x03\x04 not really")

    with pytest.raises(BaseError, match=r"cannot open .*fake\.keras"):
        evaluate(tmp_path / "fake.keras", split_photos)


def test_a_csv_is_evaluated_like_the_folder_it_lists(run, split_photos, tmp_path):
    with open(tmp_path / "test.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for path in sorted((split_photos / "test").rglob("*-*.*")):
            writer.writerow([path, path.parent.name, "test"])

    found, expected = evaluate(run, tmp_path / "test.csv"), evaluate(run, split_photos)

    assert {**found, "data": ""} == {**expected, "data": ""}


def test_an_answer_has_the_label_its_probability_and_the_best_in_order(run, holiday):
    (answer,) = predict(run, [str(holiday / "0.png")])

    probabilities = np.asarray(run.model(texture("dots", 300)[None].astype(np.float32)))[0]
    order = np.argsort(-probabilities)
    assert set(answer) == {"path", "label", "probability", "top"}
    assert answer["path"] == str(holiday / "0.png")
    assert answer["label"] == CLASSES[order[0]]
    assert answer["probability"] == pytest.approx(float(probabilities[order[0]]), abs=1e-5)
    assert [best["label"] for best in answer["top"]] == [CLASSES[i] for i in order]
    assert [best["probability"] for best in answer["top"]] == pytest.approx(probabilities[order].tolist(), abs=1e-5)


def test_a_folder_stands_for_the_images_below_it(run, holiday):
    answers = predict(run, [holiday, holiday / "0.png"])

    assert [answer["path"] for answer in answers] == [
        str(holiday / name) for name in ("0.png", "1.png", "second-day/2.JPG", "0.png")
    ]
    assert [answer["label"] for answer in answers] == ["dots", "stripes", "checks", "dots"]


def test_arrays_are_answered_like_the_files_they_came_from(run, holiday):
    pixels = texture("dots", 300)

    answers = predict(run, [pixels, pixels.astype(np.float64), holiday / "0.png"])

    assert [answer["path"] for answer in answers] == [None, None, str(holiday / "0.png")]
    assert answers[0]["top"] == answers[1]["top"]
    assert answers[0]["probability"] == pytest.approx(answers[2]["probability"], abs=1e-6)


def test_a_bad_image_is_an_answer_too_and_the_others_are_answered(run, holiday, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    wanted = [tmp_path / "empty.png", holiday / "0.png", tmp_path / "nothing.png", np.zeros((4, 4)), np.zeros(7)]

    answers = predict(run, wanted)

    assert [set(answer) for answer in answers] == [
        {"path", "error"},
        {"path", "label", "probability", "top"},
        {"path", "error"},
        {"path", "label", "probability", "top"},
        {"path", "error"},
    ]
    assert answers[0]["error"] == "the file is empty"
    assert answers[2]["error"] == "No such file or directory"
    assert answers[4]["error"].startswith("not an image; expected shape (h, w, 3)")
    assert answers[1]["label"] == "dots"


def test_only_bad_images_are_only_bad_answers(run, tmp_path):
    answers = predict(run, [tmp_path / "a.png", tmp_path / "b.png"])

    assert [set(answer) for answer in answers] == [{"path", "error"}] * 2


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (50, 3)])
def test_no_more_classes_are_given_than_asked_for_and_than_there_are(run, holiday, top, count):
    (answer,) = predict(run, [holiday / "0.png"], top=top)

    assert len(answer["top"]) == count


def test_top_0_is_refused(run, holiday):
    with pytest.raises(OptionError, match="top is too small; expected 1 or more, found 0"):
        predict(run, [holiday], top=0)


@pytest.mark.parametrize("images", [[], ["empty-folder"]])
def test_nothing_to_predict_is_refused(run, tmp_path, images):
    (tmp_path / "empty-folder").mkdir()

    with pytest.raises(DatasetError, match="no images to predict; expected paths of images, or of folders"):
        predict(run, [tmp_path / name for name in images])


def test_many_images_of_many_sizes_are_answered_in_order(run):
    kinds = [CLASSES[number % 3] for number in range(40)]
    images = [texture(kind, 400 + number, (20 + number, 70 - number)) for number, kind in enumerate(kinds)]

    answers = predict(run, images)

    singly = [predict(run, [pixels])[0] for pixels in images[::13]]
    assert [answer["probability"] for answer in answers[::13]] == pytest.approx(
        [answer["probability"] for answer in singly], abs=1e-5
    )
    assert sum(answer["label"] == kind for answer, kind in zip(answers, kinds, strict=True)) >= 30


def test_a_strangers_model_of_a_fixed_size_answers_with_numbers_for_names(colour_model):
    red = np.zeros((30, 50, 3), np.uint8)
    red[..., 0] = 200

    (answer,) = predict(colour_model, [red])

    assert answer["label"] == "class 0"
    assert answer["probability"] > 0.99


def test_a_strangers_model_is_evaluated_with_the_classes_of_the_data(colour_model, split_photos):
    # Checks are reddish, dots greenish, stripes bluish: the model tells them apart by colour alone.
    figures = evaluate(colour_model, split_photos)

    assert list(figures["classes"]) == list(CLASSES)
    assert figures["accuracy"] == 1.0


def test_a_run_whose_model_was_changed_gives_no_answers(own_run, holiday):
    with open(own_run / "model.keras", "ab") as file:
        file.write(b"x")

    with pytest.raises(RunError, match="is not the model that this run wrote"):
        predict(own_run, [holiday])


def test_one_path_alone_is_one_image_or_one_folder(run, holiday):
    assert predict(run, str(holiday)) == predict(run, [holiday])
