"""What a run was made from decides what is scored: the number scored is the number held out, and none is trained on."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import permafrost as pf
from helpers import one_error_line
from permafrost.errors import DatasetError
from permafrost.images import decoding
from permafrost.images.splits import SPLITS
from samples import CLASSES, encoded, texture, write_photos

pytest_plugins = ["upper", "tuning"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A folder of 60 small images, one folder per class."""
    folder = tmp_path_factory.mktemp("many") / "many"
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for seed in range(20):
            (folder / kind / f"{seed:02}.png").write_bytes(encoded(texture(kind, seed, (12, 12))))
    return folder


def table(many: Path, path: Path, split_of) -> Path:
    """Write a table of the images in groups, with the splits that `split_of` gives by the number in a file's name."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "group"])
        for image in sorted(many.rglob("*.png")):
            number = int(image.stem)
            writer.writerow([image, image.parent.name, split_of(number), number // 3])
    return path


GIVEN = {
    "none": lambda number: "",
    "some": lambda number: "test" if number % 5 == 0 else "train" if number % 5 == 1 else "",
    "all": lambda number: SPLITS[number % 3],
    "no validation": lambda number: "test" if number % 4 == 0 else "train",
}
"""The split that a table gives an image by its number; a blank for none."""

fractions = st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)).filter(lambda pair: sum(pair) < 0.95)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fractions, st.sampled_from(sorted(GIVEN)), st.sampled_from(["ridge", "dense"]))
@example((0.0, 0.0), "none", "ridge")
@example((0.0, 0.4), "none", "dense")
@example((0.2, 0.5), "some", "ridge")
@example((0.0, 0.0), "no validation", "dense")
def test_the_number_scored_is_the_number_held_out_after_any_fractions(many, tiny_base, tmp_path, pair, named, head):
    data = table(many, tmp_path / "data.csv", GIVEN[named])
    options = dict(zip(("validation_fraction", "test_fraction"), pair, strict=True))
    features = pf.extract(
        data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "set.h5", engine="keras", progress=False, **options
    )
    more = {"epochs": 1} if head == "dense" else {}
    run = pf.fit_head(features, head, out=tmp_path / "run", progress=False, **more)

    recorded = run.about["libraries"]["splits"]
    assert (recorded["validation_fraction"], recorded["test_fraction"]) == pair
    scored = {}
    for split in SPLITS:
        held = run.metrics[split]["n"]
        for place in (data, many):
            if held:
                metrics = pf.evaluate(run, place, split=split)
                assert (metrics["n"], metrics["known"], metrics["images"]) == (held, 60, 60)
                assert metrics["trained_on"] == (held if split == "train" else 0)
                assert metrics["confusion"] == run.metrics[split]["confusion"]
            else:
                with pytest.raises(DatasetError, match=f"no {split} images in "):
                    pf.evaluate(run, place, split=split)
        scored[split] = held
    every = pf.evaluate(run, many, split="all")
    assert sum(scored.values()) == every["n"] == 60
    assert every["trained_on"] == scored["train"]


def test_a_run_without_test_images_has_no_test_accuracy_on_the_images_that_it_was_trained_on(many, tiny_base, tmp_path):
    # Public bug reports: keras-team/keras#5862.
    options = {"base": str(tiny_base), "pool": "avg", "out": tmp_path / "f" / "set.h5", "progress": False}
    features = pf.extract(many, validation_fraction=0, test_fraction=0, **options)
    run = pf.fit_head(features, "ridge", out=tmp_path / "run", progress=False)

    with pytest.raises(DatasetError) as caught:
        pf.evaluate(run, many)

    assert one_error_line(caught.value) == (
        f"no test images in {many}; found 60 images, of which the run knows 60 (60 for train). "
        "Give another --split, or --split all to score every image"
    )
    every = pf.evaluate(run, many, split="all")
    assert every["warnings"] == ["the model was trained on 60 of the 60 images that are scored"]


def test_a_folder_of_new_images_is_scored_whole_even_if_it_has_one_class(run, tmp_path):
    # Public bug reports: hysts/pytorch_image_classification#16, ivadomed/ivadomed#1135.
    field = write_photos(tmp_path / "field", per_class=10, first=500)
    one_class = write_photos(tmp_path / "one-class", per_class=10, first=600, classes=["dots"])

    whole, one = pf.evaluate(run, field), pf.evaluate(run, one_class)

    assert (whole["split"], whole["n"], whole["images"], whole["known"], whole["trained_on"]) == ("all", 30, 30, 0, 0)
    assert (one["split"], one["n"], one["images"]) == ("all", 10, 10)
    assert one["balanced_accuracy"] == one["accuracy"] == one["classes"]["dots"]["recall"]
    assert one["classes"]["checks"]["recall"] is None


def test_a_copy_of_a_training_image_is_not_a_test_image_of_any_run(split_photos, tiny_base, tmp_path):
    data = Path(shutil.copytree(split_photos, tmp_path / "data"))
    for split, number in (("validation", 1), ("test", 2)):
        for path in sorted((data / "train" / "dots").iterdir())[:number]:
            shutil.copy(path, data / split / "dots" / f"copy-of-{path.name}")
    shutil.copy(next((data / "validation" / "checks").iterdir()), data / "test" / "checks" / "validated.png")
    features = pf.extract(data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "set.h5", progress=False)

    run = pf.fit_head(features, "logistic", regularization=1e-3, out=tmp_path / "run", progress=False)
    tuned = pf.finetune(run, "top", epochs=1, out=tmp_path / "tuned", progress=False)

    for made in (run, tuned):
        assert {split: made.metrics[split]["n"] for split in SPLITS} == {"train": 18, "validation": 9, "test": 9}
        assert made.describe()["notes"] == ["4 copies of images of an earlier split are left out"]
        found = pf.evaluate(made, data)
        assert (found["n"], found["trained_on"], found["images"]) == (9, 0, 40)


def test_validation_images_that_are_all_copies_of_training_images_are_no_validation_images(
    split_photos, tiny_base, tmp_path
):
    for split in ("train", "validation"):
        shutil.copytree(split_photos / "train", tmp_path / "data" / split)
    options = {"base": str(tiny_base), "pool": "avg", "out": tmp_path / "f" / "set.h5", "progress": False}
    features = pf.extract(tmp_path / "data", **options)

    run = pf.fit_head(features, "dense", epochs=1, out=tmp_path / "run", progress=False)

    held_out = run.metrics["validation"]["n"]
    assert held_out > 0
    assert held_out + run.metrics["train"]["n"] == 18
    for split in ("train", "validation"):
        assert pf.evaluate(run, split_photos / "train", split=split)["n"] == run.metrics[split]["n"]


def test_what_a_run_was_trained_on_stays_so_when_it_is_fine_tuned_again_and_again(many, tiny_base, tmp_path):
    # Nothing is held out for the first run, so the images that the others hold out have been trained on.
    options = {"base": str(tiny_base), "pool": "avg", "out": tmp_path / "f" / "set.h5", "progress": False}
    features = pf.extract(many, validation_fraction=0, **options)
    run = pf.fit_head(features, "logistic", regularization=1e-3, out=tmp_path / "run", progress=False)
    tuned = pf.finetune(run, "top", epochs=1, out=tmp_path / "tuned", progress=False)
    again = pf.finetune(tuned, "top", epochs=1, monitor="loss", out=tmp_path / "again", progress=False)

    trained = {digest.tobytes() for digest in features.digests("train")}
    for made in (run, tuned, again):
        assert {digest.tobytes() for digest in made.images.digests[made.images.splits == 0]} == trained
        assert pf.evaluate(made, many)["n"] == len(features.rows("test"))
    held_out = tuned.metrics["validation"]["n"]
    assert held_out > 0
    assert f"{run.folder} was trained on {held_out} of the validation images" in tuned.describe()["warnings"]
    with pytest.raises(DatasetError, match="no validation images"):
        pf.evaluate(tuned, many, split="validation")


def test_the_limit_on_pixels_of_a_run_holds_for_all_that_follows(split_photos, tiny_base, tmp_path):
    # Public bug reports: nadeemlab/DeepLIIF#48, deepfates/memery#10.
    limit = 3500
    data = Path(shutil.copytree(split_photos, tmp_path / "data"))
    for split in SPLITS:
        (data / split / "dots" / "wide.png").write_bytes(encoded(texture("dots", 1, (10, 400))))
    options = {"base": str(tiny_base), "pool": "avg", "progress": False}
    features = pf.extract(data, max_pixels=limit, out=tmp_path / "f" / "set.h5", **options)
    run = pf.fit_head(features, "logistic", regularization=1e-3, out=tmp_path / "run", progress=False)
    tuned = pf.finetune(run, "top", epochs=1, cache_limit=0, out=tmp_path / "tuned", progress=False)

    assert len(features) == 36
    for made in (run, tuned):
        for model in (made, made.folder, made.model_path):
            (answer,) = pf.predict(model, data / "test" / "dots" / "wide.png")
            assert "too many pixels; expected at most 3,500, found 400 x 10" in answer["error"]
            metrics = pf.evaluate(model, data)
            assert (metrics["n"], metrics["skipped"]) == (9, 1)


def test_images_beyond_the_usual_limit_on_pixels_are_taken_where_the_run_takes_them(
    split_photos, tiny_base, tmp_path, monkeypatch
):
    options = {"base": str(tiny_base), "pool": "avg", "out": tmp_path / "f" / "set.h5", "progress": False}
    features = pf.extract(split_photos, max_pixels=10**6, **options)
    run = pf.fit_head(features, "logistic", regularization=1e-3, out=tmp_path / "run", progress=False)
    limits = []
    opened = decoding._open
    monkeypatch.setattr(
        decoding, "_open", lambda data, max_pixels, *more: limits.append(max_pixels) or opened(data, max_pixels, *more)
    )
    tuned = pf.finetune(run, "top", epochs=1, cache_limit=0, out=tmp_path / "tuned", progress=False)
    for model in (run, run.model_path, tuned, tuned.model_path):
        pf.predict(model, split_photos / "test" / "dots")
        pf.evaluate(model, split_photos)

    assert set(limits) == {10**6}


def test_every_image_of_a_grown_dataset_is_scored_or_said_not_to_be(run, split_photos, tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "grown"
    for path in split_photos.rglob("*-*.*"):
        (data / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, data / path.parent.name / f"{rng.integers(1 << 40)}{path.suffix}")
    write_photos(data, per_class=3, first=500)

    found = {split: pf.evaluate(run, data, split=split) for split in (*SPLITS, "all")}

    assert sum(found[split]["n"] for split in SPLITS) + found["test"]["unknown_not_scored"] == found["all"]["n"] == 45
