"""A fit writes a run that agrees with its model, and refuses data that it cannot trust."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import permafrost as pf
from helpers import compiling, files_below, leftovers, load_stored_trunk, one_error_line, same_weights
from permafrost.cli.fit_head import calibration_lines, run_lines
from permafrost.errors import HeadError, OptionError, ParityError, PermafrostError, RunError, SetError, StoreError
from permafrost.extraction.originals import Originals
from permafrost.heads import few_shots as few
from permafrost.heads import fit as fitting
from permafrost.heads.data import HELD_OUT_FRACTION, require_classes, require_features, split_rows
from permafrost.images.splits import SPLITS
from permafrost.model.assembly import body_of
from permafrost.model.parity import REDUCED_TOLERANCE, sample_images
from permafrost.model.run import open_run
from permafrost.store.feature_set import FeatureSet
from permafrost.training.metrics import metrics
from permafrost.trunk.cutting import TRUNK_FILE, build_trunks
from samples import CLASSES, texture, write_photos

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its own data pipeline is compiled all the same.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A folder of 60 images without splits. Do not change it."""
    return write_photos(tmp_path_factory.mktemp("many") / "many", per_class=20)


@pytest.fixture(scope="module")
def unvalidated(many, tiny_base, tmp_path_factory):
    """Features of `many` without validation images. Do not change them."""
    out = tmp_path_factory.mktemp("unvalidated") / "many.h5"
    return pf.extract(many, base=str(tiny_base), pool="avg", validation_fraction=0, out=out, progress=False)


GIVEN = {"hidden": (8, 4), "dropout": 0.1, "seed": 5, "optimizer": "nadam"}


def fit(features, head: str = "logistic", *, out: Path, **options):
    quick = {"regularization": 0.3} if head == "logistic" else {"epochs": 2, "hidden": 8}
    return pf.fit_head(features, head, out=out, progress=False, **(quick | options))


@pytest.fixture(scope="module")
def dense_run(features, tmp_path_factory):
    """A run of a dense head on `features`, with options of each kind. Do not change it."""
    with compiling(False):
        return fit(features, "dense", out=tmp_path_factory.mktemp("dense") / "run", **GIVEN)


def listed(folder: Path, path: Path, splits: dict[str, str]) -> Path:
    """Write a CSV of the images below `folder`, with each class in one split."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for image in sorted(folder.rglob("*-*.*")):
            writer.writerow([str(image), image.parent.name, splits[image.parent.name]])
    return path


@pytest.mark.parametrize("head", ["logistic", "dense"])
def test_the_metrics_of_a_run_are_those_of_its_model_on_the_images(features, run, dense_run, head):
    made = run if head == "logistic" else dense_run

    body = body_of(made.model)
    for split in ("train", "validation", "test"):
        rows = features.rows(split)
        pixels = np.stack([Originals(features).pixels(int(row)) for row in rows]).astype(np.float32)
        expected = metrics(features.labels(split), np.asarray(body(pixels)), features.class_names)
        found = dict(made.metrics[split])
        assert found.pop("split") == split
        assert ("computed once" in found.pop("use")) == (split == "test")
        assert found.pop("calibration_error") == pytest.approx(expected.pop("calibration_error"), abs=1e-4)
        assert found.pop("log_loss") == pytest.approx(expected.pop("log_loss"), abs=1e-4)
        assert found == expected


def test_a_run_has_the_history_of_its_training(dense_run):
    with open(dense_run.folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"]
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert dense_run.about["details"]["best_epoch"] == int(best["epoch"])
    assert dense_run.metrics["validation"]["log_loss"] == pytest.approx(float(best["val_loss"]), abs=1e-4)


def test_a_run_records_all_options(dense_run):
    options = dense_run.about["options"]

    assert (options["hidden"], options["dropout"]) == ([8, 4], 0.1)
    assert {key: options["training"][key] for key in ("seed", "optimizer", "epochs")} == {
        "seed": 5,
        "optimizer": "nadam",
        "epochs": 2,
    }
    assert (dense_run.about["kind"], dense_run.about["head"]) == ("fit-head", "dense")


def test_the_same_request_gives_the_same_model(features, dense_run, tmp_path):
    again = fit(features, "dense", out=tmp_path / "again", **GIVEN)

    assert same_weights(dense_run.model, again.model)
    assert dense_run.metrics == again.metrics


def test_a_head_on_features_that_are_not_pooled_is_exported(maps, tmp_path):
    run = fit(maps, "dense", out=tmp_path / "run", epochs=1)

    assert run.about["parity"]["resized_max_difference"] <= 1e-4
    assert run.metrics["train"]["n"] == 18


def test_without_validation_images_dense_holds_out_training_images_and_reports_them(unvalidated, tmp_path):
    assert len(unvalidated.rows("validation")) == 0

    run = fit(unvalidated, "dense", out=tmp_path / "run", epochs=1)

    held = run.metrics["validation"]["n"]
    assert 1 <= held <= 3 * HELD_OUT_FRACTION * len(unvalidated)
    assert run.metrics["train"]["n"] + held == len(unvalidated.rows("train"))
    assert run.metrics["test"]["n"] == len(unvalidated.rows("test"))


def test_logistic_needs_no_validation_images_and_holds_none_out(unvalidated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    # The file alone, and no folder for the run, as on the command line.
    run = pf.fit_head(str(unvalidated.path), "logistic", regularization=1.0, progress=False)

    assert run.metrics["validation"] == {"n": 0}
    assert run.metrics["train"]["n"] == len(unvalidated.rows("train"))
    assert run.folder == Path("runs/many-logistic")
    assert open_run(run.folder).about == run.about


def test_nothing_is_held_out_if_the_training_loss_is_monitored(unvalidated, tmp_path):
    run = fit(unvalidated, "dense", out=tmp_path / "run", monitor="loss", epochs=1)

    assert run.metrics["validation"] == {"n": 0}


def test_held_out_images_depend_on_their_content_only(unvalidated, many, tiny_base, tmp_path):
    fewer = tmp_path / "renamed"
    for number, path in enumerate(sorted(many.rglob("*-*.*"), reverse=True)[:40]):
        (fewer / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, fewer / path.parent.name / f"{number}{path.suffix}")
    features = pf.extract(
        fewer, base=str(tiny_base), pool="avg", validation_fraction=0, out=tmp_path / "fewer.h5", progress=False
    )

    def held(among) -> set[bytes]:
        rows = split_rows(among, hold_out=True)
        assert not set(rows["validation"]) & {*rows["train"], *rows["test"]}
        return {among.digests()[row].tobytes() for row in rows["validation"]}

    there = {digest.tobytes() for digest in features.digests("train")}
    assert held(unvalidated) == held(unvalidated)
    assert held(features) == held(unvalidated) & there


def test_nothing_is_held_out_if_there_are_validation_images(features):
    rows = split_rows(features, hold_out=True)

    assert all(np.array_equal(rows[split], features.rows(split)) for split in rows)


def test_a_class_without_training_images_is_refused_and_named(photos, tiny_base, tmp_path):
    data = listed(photos, tmp_path / "photos.csv", {"checks": "train", "dots": "train", "stripes": "test"})
    features = pf.extract(data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "photos.h5", progress=False)

    with pytest.raises(HeadError) as caught:
        fit(features, out=tmp_path / "run")

    line = one_error_line(caught.value)
    assert line == (
        "class stripes has no training images; expected at least one in each class. Add some, or leave the class out"
    )
    assert not (tmp_path / "run").exists()


def test_a_class_that_does_not_occur_in_a_split_has_no_metrics_there_and_a_warning_names_it(features, tmp_path):
    splits = features.content.splits.copy()
    splits[features.labels() == CLASSES.index("stripes")] = SPLITS.index("train")
    moved = FeatureSet(features.path, dataclasses.replace(features.content, splits=splits))

    run = fit(moved, out=tmp_path / "run", calibrate="temperature")

    def refuse(text: str):
        raise AssertionError(f"{text} is not JSON")

    for split in ("validation", "test"):
        written = json.loads((run.folder / "metrics.json").read_text(), parse_constant=refuse)[split]
        assert written["classes"]["stripes"]["recall"] is written["classes"]["stripes"]["f1"] is None
        others = [written["classes"][name]["recall"] for name in ("checks", "dots")]
        assert written["balanced_accuracy"] == pytest.approx(np.mean(others))
        assert (
            f"warning: {split} has no images of stripes: their recall is n/a, and balanced accuracy omits them"
        ) in run_lines(run)


def test_a_class_whose_training_images_are_all_held_out_is_refused():
    with pytest.raises(HeadError, match="class b has no training images"):
        require_classes(np.array([0, 2, 2]), ("a", "b", "c"))


def test_a_set_without_training_images_is_refused(photos, tiny_base, tmp_path):
    data = listed(photos, tmp_path / "photos.csv", dict.fromkeys(CLASSES, "test"))
    features = pf.extract(data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "photos.h5", progress=False)

    with pytest.raises(HeadError, match=r"no training images in .*photos\.h5; found other splits for all, as the"):
        fit(features, out=tmp_path / "run")


def test_training_that_diverges_is_refused_with_advice(features, tmp_path):
    with pytest.raises(HeadError) as caught:
        fit(features, "dense", out=tmp_path / "run", learning_rate=1e30)

    line = one_error_line(caught.value)
    assert line == (
        "training diverged: the head's probabilities are not numbers; expected probabilities, found NaN. "
        "Lower --learning-rate"
    )
    assert files_below(tmp_path) == []


def test_parity_is_checked_on_the_test_images_up_to_64_spread_over_them(features):
    test = features.rows("test")

    assert [row for row, _ in sample_images(features, {"test": test})] == test.tolist()
    assert len(list(sample_images(features, {"test": np.empty(0, np.int64)}))) == 36
    assert len(list(sample_images(features, {"test": np.resize(test, 1000)}))) == 64


def test_if_the_images_are_gone_parity_is_checked_on_synthetic_ones_and_the_run_records_it(
    own_photos, tiny_base, tmp_path
):
    features = pf.extract(own_photos, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "p.h5", progress=False)
    shutil.rmtree(own_photos)

    run = fit(features, out=tmp_path / "run")

    parity = run.about["parity"]
    assert (parity["synthetic"], parity["images"]) == (True, 8)
    assert parity["full_size_equal_labels"] is parity["full_size_max_difference"] is None
    assert parity["resized_max_difference"] <= 1e-4


def test_parity_is_not_checked_on_images_that_have_changed(split_photos, tiny_base, tmp_path):
    own = Path(shutil.copytree(split_photos, tmp_path / "own"))
    features = pf.extract(own, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "own.h5", progress=False)
    changed, gone, *_ = features.paths("test")
    shutil.copy(features.paths("train")[0], changed)
    Path(gone).unlink()

    run = fit(features, out=tmp_path / "run")

    assert (run.about["parity"]["images"], run.about["parity"]["synthetic"]) == (7, False)


@pytest.mark.parametrize("option", [{"dtype": "float16"}, {"precision": "bfloat16"}], ids=["float16", "bfloat16"])
def test_features_of_fewer_bits_pass_parity_at_its_reduced_tolerance(split_photos, tiny_base, tmp_path, option):
    features = pf.extract(
        split_photos, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "p.h5", progress=False, **option
    )

    run = fit(features, out=tmp_path / "run")

    parity = run.about["parity"]
    assert parity["resized_max_difference"] <= parity["tolerance"] == REDUCED_TOLERANCE
    assert run.model.outputs[0].dtype == "float32"
    assert run.model.inputs[0].dtype == "float32"


def test_images_of_an_npz_file_can_be_fitted_tuned_evaluated_and_predicted(tiny_base, tmp_path):
    arrays = {
        split: np.stack([texture(kind, first + seed) for kind in CLASSES for seed in range(count)])
        for split, first, count in (("train", 0, 5), ("validation", 50, 2), ("test", 80, 2))
    }
    labels = {split: np.repeat(np.arange(3), len(pixels) // 3) for split, pixels in arrays.items()}
    data = tmp_path / "arrays.npz"
    np.savez(
        data,
        class_names=np.array(CLASSES),
        **{f"X_{split}": pixels for split, pixels in arrays.items()},
        **{f"y_{split}": numbers for split, numbers in labels.items()},
    )

    features = pf.extract(data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "a.h5", progress=False)
    run = fit(features, out=tmp_path / "run")
    tuned = pf.finetune(run, "top", epochs=1, out=tmp_path / "tuned", progress=False)

    assert run.class_names == CLASSES
    assert (run.about["parity"]["images"], run.about["parity"]["synthetic"]) == (6, False)
    assert pf.evaluate(tuned, data)["n"] == 6
    answers = pf.predict(tuned, list(arrays["test"]))
    assert [answer["label"] for answer in answers] == [
        CLASSES[int(row.argmax())] for row in np.asarray(tuned.model(arrays["test"].astype(np.float32)))
    ]


def test_a_store_without_its_trunk_is_refused_with_advice(own_features, tmp_path):
    path = own_features.store.folder / TRUNK_FILE
    path.unlink()

    with pytest.raises(StoreError) as caught:
        fit(own_features, out=tmp_path / "run")

    line = one_error_line(caught.value)
    assert line == f"no trunk at {path}. Run the same extract again to save it"


def test_an_open_set_reads_its_trunk_once(own_features, tmp_path):
    first = fit(own_features, out=tmp_path / "first")
    (own_features.store.folder / TRUNK_FILE).unlink()

    second = fit(own_features, out=tmp_path / "second")

    assert same_weights(first.model, second.model)


def test_the_same_extract_again_writes_a_missing_trunk(own_features, split_photos, tiny_base):
    (own_features.store.folder / TRUNK_FILE).unlink()

    again = pf.extract(split_photos, base=str(tiny_base), pool="avg", out=own_features.path, progress=False)

    assert again.summary["computed"] == 0
    assert load_stored_trunk(again.store).spec == again.spec


def test_a_changed_trunk_is_refused_and_the_difference_is_named(own_features, tmp_path):
    path = own_features.store.folder / TRUNK_FILE
    model = load_stored_trunk(own_features.store).model
    kernel, *rest = model.get_layer("stem").get_weights()
    kernel[0, 0, 0, 0] += 1
    model.get_layer("stem").set_weights([kernel, *rest])
    model.save(path)

    with pytest.raises(StoreError) as caught:
        fit(own_features, out=tmp_path / "run")

    line = one_error_line(caught.value)
    assert line.startswith(f"{path} is not the trunk of these features: weights; expected {own_features.spec.weights}")


def test_a_set_whose_store_is_gone_is_refused(own_features, tmp_path):
    shutil.rmtree(own_features.path.parent / "store")

    with pytest.raises(SetError) as caught:
        fit(str(own_features.path), out=tmp_path / "run")

    line = one_error_line(caught.value)
    assert f"the store of {own_features.path} cannot be opened" in line
    assert "Move the set and the folder `store` together, or run extract again" in line


def test_a_set_whose_shard_is_gone_is_refused(own_features, tmp_path):
    for shard in own_features.store.shard_names():  # On a slow machine there are several.
        (own_features.store.folder / shard).unlink()

    with pytest.raises(StoreError, match=r"missing shard .*Run the same extract again: it computes what is missing"):
        fit(own_features, out=tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_features_of_another_trunk_fail_the_parity_check(features, tiny_base, tmp_path, monkeypatch):
    from permafrost.trunk.bases import load_base

    (other,) = build_trunks(load_base(str(tiny_base), weights="none"), pool="avg")
    monkeypatch.setitem(vars(features), "trunk", other)

    with pytest.raises(ParityError):
        fit(features, out=tmp_path / "deep" / "run")

    assert files_below(tmp_path) == ["deep"]


def test_a_failure_while_a_run_is_replaced_leaves_the_old_run_unchanged(features, own_run, monkeypatch):
    before = {path.name: path.read_bytes() for path in own_run.iterdir()}

    def fail(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("permafrost.model.parity.check_parity", fail)
    with pytest.raises(KeyboardInterrupt):
        fit(features, out=own_run)

    assert {path.name: path.read_bytes() for path in own_run.iterdir()} == before
    assert leftovers(own_run.parent) == []


def test_a_run_is_replaced_by_a_new_one(features, own_run):
    run = fit(features, out=own_run)

    assert open_run(own_run).about == run.about
    assert json.loads((own_run / "run.json").read_text())["details"]["C"] == 0.3
    assert leftovers(own_run.parent) == []


def test_a_wrong_request_is_refused_before_features_are_read(features, tmp_path, monkeypatch):
    def fail(*args):
        raise AssertionError("features were read")

    monkeypatch.setattr(type(features), "features", fail)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")

    wrong: list[tuple[type[PermafrostError], dict]] = [
        (OptionError, {"head": "logistik"}),
        (OptionError, {"epochs": 0}),
        (OptionError, {"optimizer": "adamm"}),
        (RunError, {"out": tmp_path / "mine"}),
    ]
    for kind, options in wrong:
        with pytest.raises(kind):
            fit(features, **({"out": tmp_path / "run"} | options))


@pytest.fixture(scope="module")
def other_cut(split_photos, tiny_base, tmp_path_factory):
    """Features of the same images at another cut. Do not change them."""
    out = tmp_path_factory.mktemp("lower") / "lower.h5"
    return pf.extract(split_photos, base=str(tiny_base), cut="stem", pool="avg", out=out, progress=False)


@pytest.fixture(scope="module")
def chosen(features, other_cut, tmp_path_factory):
    """A run of `auto` on two feature sets, with few shots. Do not change it."""
    with compiling(False):
        return pf.fit_head(
            [features, str(other_cut.path)],
            "auto",
            candidates=["ridge", "nb"],
            shots=[1, 4],
            draws=2,
            out=tmp_path_factory.mktemp("chosen") / "run",
            progress=False,
        )


def test_auto_ranks_heads_and_feature_sets_by_cross_validated_loss(chosen, features, other_cut):
    board = chosen.about["leaderboard"]

    assert {row["features"] for row in board} == {features.path.stem, "lower"}
    assert len(board) == 2 * (2 + 1)
    losses = [row["log_loss"] for row in board]
    assert losses == sorted(losses)
    assert all(row["seconds"] > 0 and 0 <= row["balanced_accuracy"] <= 1 for row in board)
    with open(chosen.folder / "leaderboard.csv", newline="") as file:
        assert [row["head"] for row in csv.DictReader(file)] == [row["head"] for row in board]


def test_auto_exports_the_best_head(chosen, features, other_cut):
    best = chosen.about["leaderboard"][0]

    assert (chosen.about["head"], chosen.about["details"][best["setting"]]) == (best["head"], best["value"])
    expected = features if best["features"] == features.path.stem else other_cut
    assert chosen.about["features"] == str(expected.path)
    assert chosen.about["parity"]["resized_max_difference"] <= 1e-4


def test_few_shots_have_a_mean_and_a_spread_and_more_are_better(chosen):
    curve = chosen.about["shots"]

    assert [row["shots"] for row in curve] == [1, 4]
    assert all(row["draws"] == 2 and 0 <= row["accuracy_spread"] <= 0.6 for row in curve)
    assert curve[-1]["accuracy"] >= curve[0]["accuracy"] - 0.1
    assert (chosen.folder / "shots.csv").is_file()


def test_auto_does_not_read_test_images(features, chosen, tmp_path, monkeypatch):
    asked = []
    real = type(features).features

    def noted(self, rows, **options):
        asked.append(set(np.asarray(rows).tolist()))
        return real(self, rows, **options)

    monkeypatch.setattr(type(features), "features", noted)
    monkeypatch.setattr(fitting, "evaluate_head", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pf.fit_head(features, "auto", candidates=["nb"], out=tmp_path / "run", progress=False)

    assert asked
    assert not set().union(*asked) & set(features.rows("test").tolist())


def test_sets_of_other_images_are_not_compared(features, photos, tiny_base, tmp_path):
    other = pf.extract(photos, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "other.h5", progress=False)

    with pytest.raises(HeadError) as caught:
        pf.fit_head([features, other], "auto", out=tmp_path / "run", progress=False)

    line = one_error_line(caught.value)
    assert line == (
        f"{other.path} and {features.path} cannot be compared: different images; expected sets of the same images. "
        "Extract both from the same data"
    )


def test_sets_of_one_name_are_not_compared(features, tmp_path):
    with pytest.raises(OptionError) as caught:
        pf.fit_head([features, features.path], "auto", out=tmp_path / "run", progress=False)

    assert one_error_line(caught.value) == (
        f"two feature sets are called {features.path.stem}; expected sets of different names"
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"head": "auto", "candidates": ["dense"]}, "auto cannot compare dense; expected logistic, ridge"),
        ({"head": "auto", "candidates": []}, "no heads to compare; expected logistic, ridge"),
        ({"shots": [0]}, "shots is out of range; expected at least 1, found 0"),
        ({"draws": 0}, "draws is out of range; expected at least 1, found 0"),
        ({"scaling": "none"}, "unknown scaling; expected standard or centred, found none"),
        ({"calibrate": "platt"}, "unknown calibrate; expected none or temperature, found platt"),
    ],
)
def test_an_option_that_is_not_permitted_is_one_clear_line(features, tmp_path, options, line):
    with pytest.raises(OptionError) as caught:
        pf.fit_head(features, out=tmp_path / "run", progress=False, **options)

    assert one_error_line(caught.value).startswith(line)


def test_several_sets_cannot_be_compared_with_a_head_that_keras_trains(features, other_cut, tmp_path):
    with pytest.raises(
        OptionError, match="several feature sets cannot be compared with dense; expected auto, logistic"
    ):
        fit([features, other_cut], "dense", out=tmp_path / "run")


def test_shots_of_a_class_are_of_different_groups_and_evaluated_on_others(unvalidated, tmp_path, monkeypatch):
    groups = np.where(unvalidated.labels() == 0, np.arange(len(unvalidated)) % 3, -1)
    grouped = FeatureSet(unvalidated.path, dataclasses.replace(unvalidated.content, groups=groups))
    evaluated: list[int] = []
    score = few.accuracies
    monkeypatch.setattr(few, "accuracies", lambda y, predicted: evaluated.append((y == 0).sum()) or score(y, predicted))

    run = fit(grouped, out=tmp_path / "run", shots=[2], draws=3)

    assert run.about["shots"][0]["draws"] == 3
    of_class = groups[grouped.rows("train")][grouped.labels("train") == 0]
    assert set(evaluated) <= set(np.bincount(of_class).tolist())
    with pytest.raises(HeadError, match="class checks has too few training images for this many shots; expected at mo"):
        fit(grouped, out=tmp_path / "more", shots=[3])


def test_more_shots_than_images_are_refused(features, tmp_path):
    with pytest.raises(HeadError, match="too few training images for this many shots; expected at most 6, found 7"):
        fit(features, out=tmp_path / "run", shots=[7])


def test_the_temperature_is_chosen_on_validation_images_and_its_effect_on_test_is_recorded(features, tmp_path):
    # A head so small that some images are wrong.
    plain, calibrated = (
        fit(features, "dense", out=tmp_path / how, calibrate=how, hidden=1, epochs=1) for how in ("none", "temperature")
    )

    before, after = plain.about["calibration"], calibrated.about["calibration"]
    assert (before["split"], before["n"], before["applied"], after["applied"]) == ("validation", 9, False, True)
    assert before["temperature"] == pytest.approx(after["temperature"])
    assert calibrated.metrics["validation"]["log_loss"] <= plain.metrics["validation"]["log_loss"] + 1e-6
    for split, key in (("validation", "error"), ("test", "test_error")):
        assert plain.metrics[split]["calibration_error"] == pytest.approx(before[f"{key}_before"], abs=1e-5)
        assert calibrated.metrics[split]["calibration_error"] == pytest.approx(before[f"{key}_after"], abs=1e-5)
        assert after[f"{key}_after"] == pytest.approx(before[f"{key}_after"], abs=1e-5)


def test_if_all_held_out_images_are_right_no_temperature_is_applied(features, tmp_path):
    run = fit(features, out=tmp_path / "run", calibrate="temperature")

    found = run.about["calibration"]
    assert (found["temperature"], found["identifiable"], found["applied"]) == (1, False, False)
    assert found["error_after"] == pytest.approx(found["error_before"])
    (line,) = calibration_lines(found, None)
    assert line.startswith("calibration: all 9 images of validation are classified correctly")


def test_a_run_of_two_classes_records_a_threshold(split_photos, tiny_base, tmp_path):
    data = Path(shutil.copytree(split_photos, tmp_path / "two"))
    for folder in data.glob("*/stripes"):
        shutil.rmtree(folder)
    features = pf.extract(data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "two.h5", progress=False)

    run = fit(features, out=tmp_path / "run")

    threshold = run.about["threshold"]
    assert (threshold["class"], threshold["split"], threshold["n"]) == ("dots", "validation", 6)
    assert 0 < threshold["threshold"] < 1
    assert run.metrics["test"]["at_threshold"].keys() == {"accuracy", "balanced_accuracy"}


def test_features_that_are_not_finite_are_refused_and_an_image_is_named():
    x = np.ones((3, 2), np.float32)
    x[1, 0] = np.nan

    with pytest.raises(HeadError) as caught:
        require_features(x, ["a.jpg", "b.jpg", "c.jpg"].__getitem__)
    assert one_error_line(caught.value).startswith(
        "the features of b.jpg are not finite; expected numbers, found NaN or infinity in 1 of 3 images. Extract again"
    )
    with pytest.raises(HeadError, match="all images have the same features"):
        require_features(np.ones((3, 2), np.float32), str)


def test_a_scikit_learn_pipeline_is_fitted_and_exported(features, tmp_path):
    pipeline = make_pipeline(StandardScaler(), PCA(3), KNeighborsClassifier(3))

    run = pf.fit_head(features, pipeline, out=tmp_path / "run", progress=False)

    x, y = features.arrays("train")
    expected = pipeline.fit(x.astype(np.float64), y).predict(features.arrays("test")[0].astype(np.float64))
    assert run.metrics["test"]["accuracy"] == pytest.approx((expected == features.labels("test")).mean())
    assert run.about["head"] == "pipeline"
