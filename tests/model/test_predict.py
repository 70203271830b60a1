"""Predictions: in order, with the right names, and with an error per bad image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from permafrost.errors import DatasetError, OptionError, RunError
from permafrost.model.predict import predict
from samples import CLASSES, encoded, texture

pytest_plugins = ["upper"]
pytestmark = pytest.mark.usefixtures("light")


def test_a_prediction_has_the_label_its_probability_and_the_top_classes_in_order(run, holiday):
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


def test_hidden_folders_and_files_are_left_out(run, holiday):
    (holiday / ".thumbs" / "deeper").mkdir(parents=True)
    for name in (".thumbs/0.png", ".thumbs/deeper/1.png", "second-day/._2.JPG"):
        (holiday / name).write_bytes(encoded(texture("dots", 1)))

    found = [Path(answer["path"]).name for answer in predict(run, [holiday])]

    assert found == ["0.png", "1.png", "2.JPG"]


def test_arrays_are_classified_like_the_files_they_come_from(run, holiday):
    pixels = texture("dots", 300)

    answers = predict(run, [pixels, pixels.astype(np.float64), holiday / "0.png"])

    assert [answer["path"] for answer in answers] == [None, None, str(holiday / "0.png")]
    assert answers[0]["top"] == answers[1]["top"]
    assert answers[0]["probability"] == pytest.approx(answers[2]["probability"], abs=1e-6)


def test_a_bad_image_has_an_error_and_the_others_are_classified(run, holiday, tmp_path):
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


def test_images_may_all_be_bad(run, tmp_path):
    answers = predict(run, [tmp_path / "a.png", tmp_path / "b.png"])

    assert [set(answer) for answer in answers] == [{"path", "error"}] * 2


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (50, 3)])
def test_top_limits_the_number_of_classes(run, holiday, top, count):
    (answer,) = predict(run, [holiday / "0.png"], top=top)

    assert len(answer["top"]) == count


def test_top_0_is_refused(run, holiday):
    with pytest.raises(OptionError, match="top is too small; expected 1 or more, found 0"):
        predict(run, [holiday], top=0)


@pytest.mark.parametrize("images", [[], ["empty-folder"]])
def test_no_images_are_refused(run, tmp_path, images):
    (tmp_path / "empty-folder").mkdir()

    with pytest.raises(DatasetError, match="no images to predict; expected paths of images, or of folders"):
        predict(run, [tmp_path / name for name in images])


def test_many_images_of_many_sizes_are_classified_in_order(run):
    kinds = [CLASSES[number % 3] for number in range(40)]
    images = [texture(kind, 400 + number, (20 + number, 70 - number)) for number, kind in enumerate(kinds)]

    answers = predict(run, images)

    singly = [predict(run, [pixels])[0] for pixels in images[::13]]
    assert [answer["probability"] for answer in answers[::13]] == pytest.approx(
        [answer["probability"] for answer in singly], abs=1e-5
    )
    assert sum(answer["label"] == kind for answer, kind in zip(answers, kinds, strict=True)) >= 30


def test_classes_without_names_are_numbered(colour_model):
    red = np.zeros((30, 50, 3), np.uint8)
    red[..., 0] = 200

    (answer,) = predict(colour_model, [red])

    assert answer["label"] == "class 0"
    assert answer["probability"] > 0.99


def test_a_run_with_a_changed_model_is_refused(own_run, holiday):
    with open(own_run / "model.keras", "ab") as file:
        file.write(b"x")

    with pytest.raises(RunError, match="is not the model that this run wrote"):
        predict(own_run, [holiday])


def test_a_single_path_needs_no_list(run, holiday):
    assert predict(run, str(holiday)) == predict(run, [holiday])
