"""Fine-tuning: only the unfrozen layers change, and a run is never worse than the one it starts from."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import permafrost as pf
from helpers import changed_layers, leftovers, named_weights, one_error_line, point_to
from permafrost.errors import CutError, OptionError, RunError
from permafrost.finetuning.layers import UNFROZEN_FRACTION, find_unfrozen, set_trainable
from permafrost.model.parity import TOLERANCE
from permafrost.model.run import open_run
from permafrost.trunk.bases import load_base
from samples import PX, randomize, tiny_model, write_photos
from tuning import TINY

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]

VGG = ["input_layer", "block1_conv1", "block1_pool", "block2_conv1", "block2_pool", "block3_conv1", "block3_pool"]
HEAD = "head_probabilities"


def tune(run, unfreeze=None, *, out: Path | None, **options):
    """Fine-tune with a large learning rate, so that weights change."""
    quick = {"epochs": 1, "learning_rate": 0.05, "momentum": 0.0}
    return pf.finetune(run, unfreeze, out=out, progress=False, **(quick | options))


def weights_of(run) -> dict[str, np.ndarray]:
    """The weights in a run's file."""
    return named_weights(keras.models.load_model(Path(getattr(run, "folder", run)) / "model.keras"))


@pytest.fixture(scope="module")
def tuned(sloppy_run, tmp_path_factory):
    """The sloppy run fine-tuned from `joined`, as a user does it. Not to be changed."""
    return tune(sloppy_run, "joined", epochs=3, momentum=0.9, out=tmp_path_factory.mktemp("tuned") / "tuned")


def test_only_the_unfrozen_layers_and_the_head_change(tuned, sloppy_run):
    assert changed_layers(weights_of(sloppy_run), weights_of(tuned)) == {"top", HEAD}
    assert tuned.about["unfrozen"] == {"from": "joined", "index": 6, "layers": 2}


def test_a_fine_tuned_run_is_better_on_validation_images_and_records_by_how_much(tuned, sloppy_run):
    details = tuned.about["details"]

    assert details["improved"] is True
    assert details["after"] < details["before"]
    assert details["before"] == pytest.approx(sloppy_run.metrics["validation"]["log_loss"], abs=1e-4)
    assert details["after"] == pytest.approx(tuned.metrics["validation"]["log_loss"], abs=1e-4)
    assert tuned.about["before"]["test"]["accuracy"] == sloppy_run.metrics["test"]["accuracy"]


def test_a_fine_tuned_run_passes_parity_and_records_the_run_it_started_from(tuned, sloppy_run, features):
    assert tuned.about["parity"]["resized_max_difference"] <= TOLERANCE
    assert tuned.about["parity"]["images"] == 9
    assert tuned.about["started_from"] == str(sloppy_run.folder)
    assert tuned.about["features_digest"] == features.digest
    assert (tuned.about["kind"], tuned.about["head"]) == ("finetune", "logistic")


def test_batchnorm_of_the_base_stays_bit_for_bit_equal_even_in_unfrozen_layers(sloppy_run, tmp_path):
    all_unfrozen = tune(sloppy_run, "all", out=tmp_path / "run")

    assert changed_layers(weights_of(sloppy_run), weights_of(all_unfrozen)) == {"stem", "left", "right", "top", HEAD}


def test_train_batchnorm_trains_weights_and_statistics(sloppy_run, tmp_path):
    trained = tune(sloppy_run, "stem", train_batchnorm=True, epochs=5, out=tmp_path / "run")

    assert trained.about["details"]["improved"]
    before, after = weights_of(sloppy_run), weights_of(trained)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if name.startswith("stem_norm/")} == {
        "stem_norm/gamma",
        "stem_norm/beta",
        "stem_norm/moving_mean",
        "stem_norm/moving_variance",
    }


def test_train_batchnorm_leaves_batchnorm_below_the_unfrozen_layers_frozen(sloppy_run, tmp_path):
    trained = tune(sloppy_run, "top", train_batchnorm=True, out=tmp_path / "run")

    assert changed_layers(weights_of(sloppy_run), weights_of(trained)) == {"top", HEAD}


def test_a_learning_rate_of_0_changes_no_weight(sloppy_run, tmp_path):
    same = tune(sloppy_run, "all", learning_rate=0.0, out=tmp_path / "run")

    assert changed_layers(weights_of(sloppy_run), weights_of(same)) == set()
    assert changed_layers(weights_of(sloppy_run), named_weights(same.model)) == set()
    assert same.about["details"]["improved"] is False
    assert same.metrics["test"]["log_loss"] == pytest.approx(sloppy_run.metrics["test"]["log_loss"], abs=1e-5)


@pytest.mark.parametrize("learning_rate", [50.0, 1e30], ids=["worse", "not a number"])
def test_if_no_epoch_is_better_the_model_is_the_one_it_started_from(sloppy_run, tmp_path, learning_rate):
    worse = tune(sloppy_run, "all", learning_rate=learning_rate, epochs=2, out=tmp_path / "run")

    assert changed_layers(weights_of(sloppy_run), weights_of(worse)) == set()
    assert worse.about["details"]["improved"] is False
    assert worse.metrics["test"]["accuracy"] == sloppy_run.metrics["test"]["accuracy"]
    assert open_run(worse.folder).about == worse.about


def test_the_run_it_starts_from_is_unchanged(own_run, features, tmp_path):
    before = {path.name: path.read_bytes() for path in own_run.iterdir()}
    opened = open_run(own_run)
    weights = named_weights(opened.model)

    tune(opened, "all", out=tmp_path / "tuned")

    assert {path.name: path.read_bytes() for path in own_run.iterdir()} == before
    assert changed_layers(weights, named_weights(opened.model)) == set()


def test_a_fine_tuned_run_can_be_fine_tuned(tuned, tmp_path):
    again = tune(tuned.folder, "left", out=tmp_path / "again")

    assert again.about["started_from"] == str(tuned.folder)
    assert changed_layers(weights_of(tuned), weights_of(again)) <= {"left", "right", "top", HEAD}
    assert again.about["details"]["before"] == pytest.approx(tuned.about["details"]["after"], abs=1e-4)


def test_equal_requests_give_equal_models(sloppy_run, tmp_path):
    first, second = (tune(sloppy_run, "top", batch_size=9, seed=3, out=tmp_path / name) for name in "ab")

    assert changed_layers(weights_of(first), weights_of(second)) == set()


def test_dropout_in_a_base_is_repeated_and_is_off_in_frozen_layers(split_photos, tmp_path):
    base = tiny_model()
    pixels = keras.Input((PX, PX, 3))
    x = pixels
    for layer in base.layers[1:4]:
        x = layer(x)
    x = keras.layers.Dropout(0.5, name="frozen_drop")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="mid")(x)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="upper")(keras.layers.Dropout(0.5, name="drop")(x))
    model = keras.Model(pixels, x, name="tiny")
    randomize(model)
    model.save(tmp_path / "dropping.keras")
    features = pf.extract(
        split_photos, base=str(tmp_path / "dropping.keras"), pool="avg", out=tmp_path / "set.h5", progress=False
    )
    run = pf.fit_head(features, "logistic", regularization=1e-3, out=tmp_path / "run", progress=False)
    options = {"epochs": 2, "learning_rate": 0.01, "patience": 0, "progress": False}

    cached, again, recomputed = (
        pf.finetune(run, "drop", out=tmp_path / name, **options, **more)
        for name, more in (("cached", {}), ("again", {}), ("recomputed", {"cache_limit": 0}))
    )

    assert named_weights(cached.model)["upper/kernel"].tobytes() == named_weights(again.model)["upper/kernel"].tobytes()
    difference = named_weights(cached.model)["upper/kernel"] - named_weights(recomputed.model)["upper/kernel"]
    assert np.abs(difference).max() < 1e-5
    assert recomputed.model.get_layer("frozen_drop").rate == 0.5


def test_without_validation_images_some_training_images_are_held_out(tiny_base, tmp_path, monkeypatch):
    data = write_photos(tmp_path / "many", per_class=16)
    features = pf.extract(
        data, base=str(tiny_base), pool="avg", validation_fraction=0, out=tmp_path / "f" / "many.h5", progress=False
    )
    run = pf.fit_head(features, "logistic", regularization=1e-3, out=tmp_path / "run", progress=False)

    monkeypatch.chdir(tmp_path)
    made = tune(run, "top", out=None)

    assert made.folder == Path("runs/run-finetuned")
    assert made.metrics["validation"]["n"] > 0
    assert made.metrics["train"]["n"] + made.metrics["validation"]["n"] == run.metrics["train"]["n"]


@pytest.mark.parametrize(
    ("unfreeze", "name"),
    [
        ("block2_conv1", "block2_conv1"),
        ("block3", "block3_conv1"),
        ("block2_pool", "block2_pool"),
        (4, "block2_pool"),
        ("4", "block2_pool"),
        (-1, "block3_pool"),
        ("-3", "block2_pool"),
        ("all", "input_layer"),
    ],
)
def test_the_lowest_unfrozen_layer_is_found_by_name_block_and_index(unfreeze, name):
    assert VGG[find_unfrozen(unfreeze, VGG, VGG)] == name


def test_an_index_refers_to_the_bases_own_layers(tiny_base):
    layers = load_base(str(tiny_base)).model.layers

    found = [TINY[find_unfrozen(index, TINY, TINY)] for index in range(len(layers))]

    assert found == [layer.name for layer in layers]


def test_by_default_the_upper_quarter_of_the_layers_below_the_cut_is_unfrozen():
    names = [f"layer{number}" for number in range(40)]

    assert find_unfrozen(None, names, names) == 40 * (1 - UNFROZEN_FRACTION)
    assert find_unfrozen(None, names, names[:20]) == 20 * (1 - UNFROZEN_FRACTION)


def test_layers_that_the_model_lacks_are_not_below_the_cut():
    # The base's own input gives way to the model's, and the head's layers are not the base's.
    present = ["images", "resizing", *TINY[1:7], "joined_pooling", HEAD]

    assert find_unfrozen("joined", TINY, present) == 6
    with pytest.raises(CutError, match="layer top is above the cut"):
        find_unfrozen("top", TINY, present)


@pytest.mark.parametrize("unfreeze", ["block3", "block3_pool", 6, -1])
def test_a_layer_above_the_cut_is_refused_with_the_highest_possible_one(unfreeze):
    with pytest.raises(CutError) as caught:
        find_unfrozen(unfreeze, VGG, VGG[:5])

    line = one_error_line(caught.value)
    assert "is above the cut of the run's features, block2_pool; expected a layer up to block2_pool, found " in line
    assert line.endswith("Unfreeze a lower one, or extract at a higher cut")


@pytest.mark.parametrize(
    ("unfreeze", "line"),
    [
        ("blok2_conv1", "the base has no layer or block blok2_conv1. Try block2_conv1"),
        ("block", "the base has no layer or block block. Try "),
        (7, "the base has no layer 7; expected 0 to 6, found 7"),
        ("-8", "the base has no layer -8; expected 0 to 6, found -8"),
    ],
)
def test_an_unknown_layer_is_refused_with_the_nearest_name(unfreeze, line):
    with pytest.raises(CutError) as caught:
        find_unfrozen(unfreeze, VGG, VGG)

    assert one_error_line(caught.value).startswith(line)


def test_a_cut_with_nothing_to_train_above_it_is_refused(run):
    model = keras.models.load_model(run.model_path)

    with pytest.raises(CutError) as caught:
        set_trainable(model, ["joined"], frozen=TINY[:6], train_batchnorm=False)

    assert one_error_line(caught.value) == (
        "from joined up the base has nothing to train; expected layers with trainable weights. "
        "Unfreeze from a lower layer"
    )


def test_batchnorm_alone_counts_as_trainable_only_with_train_batchnorm(run):
    model = keras.models.load_model(run.model_path)

    with pytest.raises(CutError, match="from stem_norm up the base has nothing to train"):
        set_trainable(model, ["stem_norm"], frozen=TINY[:3], train_batchnorm=False)
    set_trainable(model, ["stem_norm"], frozen=TINY[:3], train_batchnorm=True)

    assert model.get_layer("stem_norm").trainable


@pytest.mark.parametrize("unfreeze", ["nothing_like_it", "9", "joind"])
def test_a_refused_request_writes_nothing(run, tmp_path, unfreeze):
    with pytest.raises(CutError):
        tune(run, unfreeze, out=tmp_path / "deep" / "tuned")

    assert not (tmp_path / "deep").exists()


def test_a_run_cannot_replace_the_one_it_starts_from(own_run):
    for out in (own_run, own_run / ".." / own_run.name):
        with pytest.raises(OptionError, match=r"a run cannot replace the one it starts from\. Give another --out"):
            tune(own_run, "top", out=out)


def test_a_folder_that_is_not_a_run_is_refused(tmp_path, photos):
    with pytest.raises(RunError, match="is not a run; expected a folder that fit-head or finetune made"):
        tune(photos, "top", out=tmp_path / "tuned")


def changed_set(own_features, own_run, write) -> Path:
    """The copied run, after `write` has replaced its set at the same path."""
    point_to(own_run, own_features)
    write(own_features.path)
    return own_run


def refused(own_run: Path, tmp_path: Path) -> str:
    with pytest.raises(RunError) as caught:
        tune(own_run, "top", out=tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()
    return one_error_line(caught.value)


def test_a_set_with_another_trunk_is_refused_naming_the_field_and_both_values(
    own_features, own_run, split_photos, tiny_base, tmp_path
):
    def write(out: Path) -> None:
        pf.extract(split_photos, base=str(tiny_base), pool="max", out=out, progress=False)

    line = refused(changed_set(own_features, own_run, write), tmp_path)

    assert (
        f"{own_features.path} is not the feature set that {own_run} was fitted to: pooling; expected avg, found max"
        in line
    )
    assert line.endswith("Fit the head again")


def test_a_set_with_other_classes_is_refused_with_both(own_features, own_run, split_photos, tiny_base, tmp_path):
    renamed = Path(shutil.copytree(split_photos, tmp_path / "renamed"))
    for split in ("train", "validation", "test"):
        (renamed / split / "dots").rename(renamed / split / "spots")

    def write(out: Path) -> None:
        pf.extract(renamed, base=str(tiny_base), pool="avg", out=out, progress=False)

    line = refused(changed_set(own_features, own_run, write), tmp_path)

    assert ": classes; expected checks, dots, stripes, found checks, spots, stripes. Fit the head again" in line


@pytest.mark.parametrize("change", ["label", "split", "image"])
def test_a_set_with_other_labels_splits_or_images_is_refused(
    own_features, own_run, split_photos, tiny_base, tmp_path, change
):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    image = next((own / "train" / "dots").iterdir())
    if change == "image":
        image.unlink()
    else:
        shutil.move(image, own / {"label": "train/stripes", "split": "test/dots"}[change])

    def write(out: Path) -> None:
        assert pf.extract(own, base=str(tiny_base), pool="avg", out=out, progress=False).summary["computed"] == 0

    line = refused(changed_set(own_features, own_run, write), tmp_path)

    assert line == (
        f"{own_features.path} is not the feature set that {own_run} was fitted to: images, labels or splits. "
        "Fit the head again"
    )


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_an_image_that_is_gone_or_changed_is_refused_and_named(split_photos, tiny_base, own_run, tmp_path, what):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    features = pf.extract(own, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "own.h5", progress=False)
    point_to(own_run, features)
    victim = Path(features.paths("train")[4])
    if what == "changed":
        shutil.copy(features.paths("test")[0], victim)
    else:
        victim.unlink()

    line = refused(own_run, tmp_path)

    assert line.startswith(f"an image of {features.path} cannot be trained on: ")
    assert str(victim) in line
    assert line.endswith("Extract and fit the head again")
    assert leftovers(tmp_path) == []


def test_an_unknown_monitor_is_refused(sloppy_run, tmp_path):
    with pytest.raises(OptionError, match=r"unknown monitor; expected val_loss, .*found f1"):
        tune(sloppy_run, "top", monitor="f1", out=tmp_path / "tuned")


def test_a_run_may_monitor_training_images(sloppy_run, tmp_path):
    made = tune(sloppy_run, "top", monitor="accuracy", out=tmp_path / "tuned")

    assert made.about["details"]["monitor"] == "accuracy"
    assert made.about["details"]["before"] == sloppy_run.metrics["train"]["accuracy"]


def test_epochs_that_improve_by_less_than_min_delta_leave_the_start_and_the_run_says_so(sloppy_run, tmp_path):
    made = tune(sloppy_run, "joined", epochs=3, momentum=0.9, min_delta=5.0, out=tmp_path / "tuned")

    details = made.about["details"]
    assert details["improved"] is False
    assert details["after"] == details["before"]
    assert details["after"] == pytest.approx(made.metrics["validation"]["log_loss"], abs=1e-4)
    assert changed_layers(weights_of(sloppy_run), weights_of(made)) == set()


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_a_run_that_monitors_training_images_is_never_worse(sloppy_run, tmp_path, monitor):
    made = tune(sloppy_run, "all", monitor=monitor, learning_rate=50.0, epochs=2, out=tmp_path / "tuned")

    assert made.about["details"]["improved"] is False
    assert changed_layers(weights_of(sloppy_run), weights_of(made)) == set()
    assert made.metrics["train"]["accuracy"] == sloppy_run.metrics["train"]["accuracy"]
