"""A fine-tuned run is a base for extraction."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import permafrost as pf
from helpers import edit_json, one_error_line
from permafrost.errors import BaseError, DatasetError, OptionError
from permafrost.extraction.originals import Originals
from permafrost.images.splits import SPLITS
from samples import write_photos
from tuning import QUICK

pytest_plugins = ["upper", "tuning"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


def test_a_fine_tuned_run_is_a_base_with_the_features_of_its_tuned_layers(tune, split_photos, tmp_path):
    tuned = tune("top", learning_rate=0.02)
    (tmp_path / "f").mkdir()

    features = pf.extract(
        split_photos, base=str(tuned.folder), pool="avg", out=tmp_path / "f" / "set.h5", progress=False
    )

    model = keras.models.load_model(tuned.model_path)
    pooled = keras.Model(model.inputs, model.get_layer("top_pooling").output)
    pixels = np.stack([Originals(features).pixels(row) for row in range(6)]).astype(np.float32)
    expected = pooled.predict_on_batch(pixels)
    assert np.abs(features.features(np.arange(6)) - expected).max() <= 1e-4 * np.abs(expected).max()
    again = pf.fit_head(features, "logistic", regularization=1e-2, out=tmp_path / "again", progress=False)
    assert pf.finetune(again, "joined", out=tmp_path / "more", progress=False, **QUICK).about["unfrozen"]["index"] == 6


def test_below_the_trained_layers_a_runs_features_are_those_already_cached(tune, split_photos, tiny_base, tmp_path):
    tuned = tune("top", learning_rate=0.02)
    options = {"cut": "joined", "out": tmp_path / "f" / "set.h5", "progress": False}
    pf.extract(split_photos, base=str(tiny_base), **options)

    features = pf.extract(split_photos, base=str(tuned.model_path), **options)

    assert features.summary["computed"] == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"weights": "none"}, "is a run and has its own weights; found none. Leave --weights out"),
        ({"preprocessing": "caffe"}, "is a run with another preprocessing; expected none, found caffe"),
    ],
)
def test_a_run_as_a_base_has_its_own_weights_and_preprocessing(run, split_photos, tmp_path, options, line):
    with pytest.raises(OptionError) as caught:
        pf.extract(split_photos, base=str(run.folder), out=tmp_path / "set.h5", progress=False, **options)

    assert one_error_line(caught.value).endswith(line)


@pytest.fixture
def tuned(tune):
    """A fine-tuned run."""
    return tune("top", epochs=1)


def contents(features, split: str) -> set[bytes]:
    return {row.tobytes() for row in features.digests(split)}


def all_in_one(split_photos: Path, folder: Path, *, split: str = "") -> Path:
    """Copy all images into one folder per class, under other names, in a split folder if `split` is given."""
    for number, path in enumerate(sorted(split_photos.rglob("*-*.*"))):
        place = folder / split / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / f"{number}{path.suffix}")
    return folder


@pytest.mark.parametrize("views", [1, 2])
def test_images_that_the_base_was_tuned_on_keep_their_split(tuned, split_photos, features, tmp_path, views):
    data = write_photos(all_in_one(split_photos, tmp_path / "data"), per_class=8, first=900)
    options = {"pool": "avg", "out": tmp_path / "f" / "set.h5", "progress": False, "views": views}

    again = pf.extract(data, base=str(tuned.folder), test_fraction=0.5, validation_fraction=0.1, **options)

    for split in SPLITS:
        assert contents(features, split) < contents(again, split)
    assert again.summary["notes"] == [f"36 images have the split that they have in {tuned.folder}, the base"]
    run = pf.fit_head(again, "ridge", out=tmp_path / "run", progress=False)
    assert pf.evaluate(run, data)["n"] == len(again.rows("test"))


def test_an_image_that_the_base_was_tuned_on_is_a_training_image_whatever_the_dataset_names_it(
    tuned, split_photos, features, tmp_path
):
    data = all_in_one(split_photos, tmp_path / "data", split="test")
    write_photos(data / "train", per_class=2, first=900)

    again = pf.extract(data, base=str(tuned.folder), pool="avg", out=tmp_path / "f" / "set.h5", progress=False)

    assert len(again.rows("train")) == 18 + 6
    assert contents(features, "train") < contents(again, "train")
    assert len(again.rows("test")) == 18
    assert again.summary["warnings"] == [
        f"the base {tuned.folder} was trained on 18 images that the dataset names test: they are training images"
    ]
    # The other test images are the 9 of the base, and the 9 that it was validated on, which the dataset names test.
    assert again.summary["notes"] == [f"27 images have the split that they have in {tuned.folder}, the base"]


@pytest.mark.parametrize("form", ["folder", "model file"])
def test_a_tuned_base_below_the_home_is_known_as_such(tuned, split_photos, tmp_path, monkeypatch, form):
    monkeypatch.setenv("HOME", str(tuned.folder.parent))
    base = f"~/{tuned.folder.name}" + ("/model.keras" if form == "model file" else "")

    features = pf.extract(split_photos, base=base, pool="avg", out=tmp_path / "f" / "set.h5", progress=False)

    assert features.about["base_run"]["folder"] == str(tuned.folder)
    assert features.summary["notes"] == [f"36 images have the split that they have in {tuned.folder}, the base"]


def test_a_run_on_a_tuned_base_knows_what_the_base_was_tuned_on(tuned, split_photos, tmp_path):
    new = write_photos(tmp_path / "new", per_class=8, first=900)
    features = pf.extract(new, base=str(tuned.folder), pool="avg", out=tmp_path / "f" / "set.h5", progress=False)
    run = pf.fit_head(features, "logistic", regularization=1e-3, out=tmp_path / "run", progress=False)
    more = pf.finetune(run, "top", epochs=1, out=tmp_path / "more", progress=False)

    for made in (run, more):
        with pytest.raises(DatasetError, match=r"no test images in .* of which the run knows 18 \(18 for train\)"):
            pf.evaluate(made, split_photos / "train")
        assert pf.evaluate(made, split_photos, split="all")["trained_on"] == 18
    assert pf.extract(
        split_photos, base=str(more.folder), pool="avg", out=tmp_path / "f" / "more.h5", progress=False
    ).summary["notes"] == [f"18 images have the split that they have in {more.folder}, the base"]


def test_a_run_on_a_tuned_base_that_is_gone_says_that_its_images_are_not_known(tuned, split_photos, tmp_path):
    new = write_photos(tmp_path / "new", per_class=8, first=900)
    features = pf.extract(new, base=str(tuned.folder), pool="avg", out=tmp_path / "f" / "set.h5", progress=False)
    shutil.rmtree(tuned.folder)
    run = pf.fit_head(features, "ridge", out=tmp_path / "run", progress=False)

    line, _ = pf.evaluate(run, new, split="all")["warnings"]

    reason = "damaged record of a run's images: "
    assert line.startswith(f"what the base of this run was trained on is not fully known: {reason}")
    more = pf.extract(split_photos, base=str(run.folder), pool="avg", out=tmp_path / "f" / "more.h5", progress=False)
    assert more.summary["warnings"][0].startswith(f"what the base was trained on is not fully known: {reason}")
    (line, *_) = pf.evaluate(pf.fit_head(more, "ridge", out=tmp_path / "next", progress=False), split_photos)[
        "warnings"
    ]
    assert line.startswith(f"what the base of this run was trained on is not fully known: {reason}")


def test_a_base_whose_run_was_not_tuned_has_seen_no_image(run, split_photos, tmp_path):
    data = all_in_one(split_photos, tmp_path / "data")
    options = {"pool": "avg", "progress": False}

    features = pf.extract(data, base=str(run.folder), out=tmp_path / "f" / "set.h5", **options)

    assert features.summary["notes"] == []
    assert "base_run" not in features.about


def test_a_tuned_run_without_its_record_is_no_base(tuned, split_photos, tmp_path):
    edit_json(tuned.folder / "run.json", lambda about: about.pop("images_checksum"))

    with pytest.raises(BaseError) as caught:
        pf.extract(split_photos, base=str(tuned.folder), out=tmp_path / "set.h5", progress=False)

    line = one_error_line(caught.value)
    assert line == f"{tuned.folder} does not say which images it was trained on. Fit again"
