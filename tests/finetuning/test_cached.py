"""Fine-tuning from cached features: equal to training the whole model; plans, stages, refusals and resuming."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import permafrost as pf
from helpers import changed_layers, edit_json, files_below, leftovers, named_weights, one_error_line, point_to
from permafrost.engines import openvino_engine
from permafrost.engines.conversion import convert
from permafrost.errors import HeadError, OptionError, RunError
from permafrost.extraction.cache import FeatureCache
from permafrost.extraction.options import PipelineOptions
from permafrost.extraction.originals import Originals
from permafrost.finetuning import plan as plan_module
from permafrost.finetuning import selection as selection_module
from permafrost.finetuning.cached import CachedFeatures, FeatureComputation
from permafrost.finetuning.finetune import FineTuning
from permafrost.finetuning.frontier import cut_below
from permafrost.finetuning.layers import find_stages, find_unfrozen, set_trainable, step_rates
from permafrost.finetuning.options import options_from
from permafrost.finetuning.run_features import find_features
from permafrost.finetuning.selection import ImageSelection
from permafrost.images.augmentation import Views
from permafrost.model.assembly import body_of, pixels_of
from permafrost.training.callbacks import EpochCallback
from permafrost.training.conv_gradient import quick_gradients
from permafrost.training.loop import Batches, Examples
from permafrost.training.metrics import paired_difference

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow says that its own part of reading data is compiled all the same.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]

TINY = ["pixels_in", "scale", "stem", "stem_norm", "left", "right", "joined", "top"]
QUICK = {"epochs": 2, "learning_rate": 2e-3, "momentum": 0.9, "batch_size": 9, "patience": 0}
RECOMPUTE = {"cache_limit": 0}


def prepared(run, unfreeze="joined", **options) -> FineTuning:
    """A fine-tuning that has not run yet."""
    return FineTuning(run, options_from({**QUICK, "progress": False, "unfreeze": unfreeze, **options}))


@pytest.fixture
def tune(own_features, sloppy_run, tmp_path):
    """`finetune` of a copy of the sloppy run, on a copy of its features, into the test's own folder."""
    run = point_to(Path(shutil.copytree(sloppy_run.folder, tmp_path / "sloppy")), own_features)

    def tune(unfreeze="joined", name="tuned", **options):
        return pf.finetune(run, unfreeze, out=tmp_path / "runs" / name, progress=False, **(QUICK | options))

    tune.run = run
    return tune


@pytest.fixture
def ran(monkeypatch) -> list[int]:
    """The number of images and views that a trunk computes from now on, per commit."""
    counts: list[int] = []
    commit = FeatureCache.commit

    def counted(self, keys, tensors, engine):
        counts.append(len(keys))
        commit(self, keys, tensors, engine)

    monkeypatch.setattr(FeatureCache, "commit", counted)
    return counts


def same_weights(left, right, tolerance: float = 0.0) -> bool:
    left, right = named_weights(left.model), named_weights(right.model)
    return all(np.abs(left[name] - right[name]).max() <= tolerance for name in left)


# Cached and recomputed


def ordinary_training(run, unfrozen: str, steps: int, *, optimizer, seed: int = 0) -> dict[str, np.ndarray]:
    """The weights after `steps` steps of plain Keras on the whole model, on the same batches as fine-tuning."""
    features, model = find_features(run), keras.models.load_model(run.model_path)
    lowest = TINY.index(unfrozen)
    set_trainable(model, TINY[lowest:], frozen=TINY[:lowest], train_batchnorm=False)
    body = body_of(model)
    body.compile(optimizer, "sparse_categorical_crossentropy")
    rows = features.rows("train")
    pixels = np.stack([Originals(features).pixels(int(row)) for row in rows]).astype(np.float32)
    examples = Examples(features.labels("train"), pixels.__getitem__)
    done = 0
    for epoch in range(steps):
        batches = Batches(examples, QUICK["batch_size"], seed=seed)
        batches.begin(epoch)
        for index in range(len(batches)):
            if done == steps:
                return named_weights(model)
            body.train_on_batch(*batches[index])
            done += 1
    raise AssertionError


@pytest.mark.parametrize("unfrozen", ["joined", pytest.param("right", marks=pytest.mark.slow)])
def test_training_from_cached_features_gives_the_weights_of_training_the_whole_model(tune, sloppy_run, unfrozen):
    # 25 epochs of 2 steps, the last of which is the best.
    tuned = tune(unfrozen, epochs=25)
    (stage,) = tuned.about["stages"]
    assert (stage["plan"]["strategy"], stage["epochs"]) == ("cached", 25)
    losses = [row["val_loss"] for row in history_of(tuned)]
    assert min(losses) == losses[-1] < stage["before"] - 0.01

    optimizer = keras.optimizers.SGD(learning_rate=QUICK["learning_rate"], momentum=QUICK["momentum"])
    expected = ordinary_training(sloppy_run, unfrozen, 50, optimizer=optimizer)

    found = named_weights(tuned.model)
    assert max(np.abs(found[name] - expected[name]).max() for name in found) <= 1e-4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_steps_from_cached_features_are_fifty_steps_of_the_whole_vgg16(split_photos, tmp_path):
    # With random weights and no BatchNorm its features reach 500, and at a larger rate its loss runs off to infinity
    # within five steps: any rounding grows to anything there.
    assert_fifty_steps_are_the_same(split_photos, "block5", 1e-6, tmp_path, base="vgg16", weights="none")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_steps_from_cached_features_are_fifty_steps_of_the_whole_inception_v3(shared, split_photos, tmp_path):
    # With random weights the loss is so rough that rounding grows to 2e-3 in fifty steps; with these it stays at 1e-7.
    weights = str(shared / "weights" / "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.through_mixed8.h5")
    base = {"base": "inception_v3", "weights": weights, "cut": "mixed8"}
    assert_fifty_steps_are_the_same(split_photos, 172, 1e-3, tmp_path, **base)


def assert_fifty_steps_are_the_same(photos: Path, unfrozen: str | int, rate: float, folder: Path, **base: str) -> None:
    """Train the upper layers from cached features, and the whole network with plain Keras, from one head."""
    out = folder / "features" / "set.h5"
    features = pf.extract(photos, image_size=75, pool="avg", out=out, progress=False, **base)
    run = pf.fit_head(features, "logistic", regularization=1e-3, out=folder / "run", progress=False)
    base_layers = features.store.about["base_layers"]
    whole, halved = (keras.models.load_model(run.model_path) for _ in range(2))
    lowest = find_unfrozen(unfrozen, base_layers, [layer.name for layer in whole.layers])
    for model in (whole, halved):
        set_trainable(model, base_layers[lowest:], frozen=base_layers[:lowest], train_batchnorm=False)
    frontier = cut_below(halved, pixels_of(halved), lowest, features.spec, base_layers)
    rows = {split: features.rows(split) for split in ("train", "validation", "test")}
    selection = ImageSelection(features=features, rows=rows, views=Views())
    cache = FeatureCache(frontier.trunk, folder / "features" / "store")
    FeatureComputation(selection, cache, PipelineOptions(progress=False)).run()
    pixels = np.stack([Originals(features).pixels(int(row)) for row in rows["train"]]).astype(np.float32)
    sides = {
        "whole": (body_of(whole), Examples(features.labels("train"), pixels.__getitem__)),
        "tail": (frontier.tail, CachedFeatures(selection, cache).examples("train")),
    }
    start = named_weights(whole)

    for model, examples in sides.values():
        model.compile(keras.optimizers.SGD(rate, momentum=0.9), "sparse_categorical_crossentropy")
        batches = Batches(examples, 9, seed=0)
        # The whole network is trained by plain Keras, the tail as `train` does it.
        with quick_gradients(model) if model is frontier.tail else contextlib.nullcontext():
            for step in range(50):
                batches.begin(step // 2)
                model.train_on_batch(*batches[step % 2])

    trained, expected = named_weights(halved), named_weights(whole)
    assert max(np.abs(trained[name] - expected[name]).max() for name in trained) <= 1e-4
    assert max(np.abs(start[name] - expected[name]).max() for name in trained) > 1e-3


def history_of(run) -> list[dict[str, float]]:
    lines = (run.folder / "history.csv").read_text().splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, map(float, line.split(",")), strict=True)) for line in lines[1:]]


@pytest.mark.parametrize(
    "options",
    [
        {"views": 3, "augment": "flip,rotate=30"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "adam"}, marks=pytest.mark.slow),
    ],
)
def test_cached_and_recomputed_features_train_the_same_model(tune, options):
    cached, recomputed = tune(name="cached", **options), tune(name="recomputed", **options, **RECOMPUTE)

    strategies = [run.about["stages"][0]["plan"]["strategy"] for run in (cached, recomputed)]
    assert strategies == ["cached", "recompute"]
    assert same_weights(cached, recomputed, 2e-4)
    assert not same_weights(cached, pf.open_run(tune.run), 1e-3)


@pytest.mark.slow
def test_views_differ_from_no_views_and_live_views_from_cached_views(tune):
    runs = [tune(name=str(views), views=views, epochs=3) for views in (None, 2, "live")]

    weights = [named_weights(run.model)["top/kernel"] for run in runs]
    assert not np.allclose(weights[0], weights[1], atol=1e-5)
    assert not np.allclose(weights[1], weights[2], atol=1e-5)
    assert runs[2].about["options"]["views"] == "live"
    assert runs[2].about["stages"][0]["plan"]["reason"] == "each epoch has new views"


def test_the_trunk_runs_once_per_image_and_view(tune, ran):
    tune(name="first")
    assert sum(ran) == 36
    ran.clear()

    again = tune(name="again", learning_rate=0.01)
    assert ran == []
    assert again.about["stages"][0]["plan"]["reason"] == "all features are cached already"

    tune(name="viewed", views=3)
    assert sum(ran) == 2 * 18


def test_measuring_the_trunks_speed_and_running_it_convert_it_once(tune, monkeypatch):
    pytest.importorskip("openvino")
    converted = []
    monkeypatch.setattr(openvino_engine, "convert", lambda model: converted.append(model.name) or convert(model))

    tune(epochs=1)

    assert len(converted) == 1


@pytest.mark.slow
def test_training_from_cached_features_needs_no_images(own_photos, tiny_base, tmp_path, split_photos):
    data = Path(shutil.copytree(split_photos, tmp_path / "data"))
    features = pf.extract(data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "set.h5", progress=False)
    run = pf.fit_head(features, "logistic", regularization=1e-3, out=tmp_path / "run", progress=False)
    first = pf.finetune(run, "joined", out=tmp_path / "first", progress=False, **QUICK)
    shutil.rmtree(data)

    again = pf.finetune(run, "joined", out=tmp_path / "again", progress=False, **QUICK)

    assert same_weights(first, again)
    assert again.about["parity"]["synthetic"]


@pytest.mark.slow
def test_features_that_do_not_fit_in_memory_are_read_batch_by_batch(tune, monkeypatch):
    in_memory = tune(name="memory", views=2)
    monkeypatch.setattr(selection_module, "available_memory", lambda: 0)

    from_store, recomputed = tune(name="store", views=2), tune(name="recomputed", **RECOMPUTE, views=2)

    assert same_weights(in_memory, from_store)
    assert same_weights(in_memory, recomputed, 2e-4)


def test_features_that_do_not_fit_in_memory_are_read_in_large_pieces(tune, own_features, monkeypatch):
    (stage,) = prepared(tune.run, views=2, out=None)._stages
    stage.computation.run()
    stage.cached._bytes = 2**60
    row_bytes = 2 * 16 * 16 * 8 * 4
    monkeypatch.setattr("permafrost.store.streaming.CHUNK_BYTES", row_bytes)
    monkeypatch.setattr("permafrost.finetuning.cached.SHUFFLE_BYTES", 4 * 6 * row_bytes)  # Three pieces of six images.
    train = [stage.cached._digests[row] for row in own_features.rows("train")]
    expected = [stage.cache.gather(train, view)[0] for view in range(2)]
    sizes: list[int] = []
    gather = FeatureCache.gather

    def counted(self, digests, view=0):
        sizes.append(len(digests))
        return gather(self, digests, view)

    monkeypatch.setattr(FeatureCache, "gather", counted)
    batches = Batches(stage.cached.examples("train"), 4, seed=0, steps=10)

    for epoch in range(3):
        batches.begin(epoch)
        sizes.clear()
        read = [batches[index] for index in range(10)]

        assert sum(sizes) <= 2 * 18
        assert len([size for size in sizes if size]) == 6
        rows = np.concatenate([x[0] for x, _ in read])
        assert {row.tobytes() for row in rows} == {row.tobytes() for row in expected[epoch % 2]}


@pytest.mark.slow
def test_features_in_float16_take_half_the_space_and_train_nearly_the_same_model(tune):
    whole, half = tune(name="whole"), tune(name="half", dtype="float16")

    bytes_of = [run.about["stages"][0]["plan"]["bytes"] for run in (whole, half)]
    assert bytes_of == [36 * (2 * 16 * 16 * 8 * 4 + 44), 36 * (2 * 16 * 16 * 8 * 2 + 44)]
    assert same_weights(whole, half, 1e-2)
    assert not same_weights(whole, half)


# The plan


def test_a_plan_has_what_crosses_the_cut_its_size_and_the_reason_and_writes_nothing(tune, own_features):
    before = files_below(own_features.path.parent)

    (plan,) = prepared(tune.run, views=4, out=None, epochs=10).plan()

    assert plan.strategy == "cached"
    assert (plan.crossing, plan.shapes) == (("left", "right"), ((16, 16, 8), (16, 16, 8)))
    assert (plan.rows, plan.missing) == (18 * 4 + 18, 18 * 4 + 18)
    assert plan.bytes == 90 * (2 * 16 * 16 * 8 * 4 + 44)
    assert plan.seconds > 0
    assert plan.reason == "caching runs the trunk on 90 images, recomputing on 324 in 10 epochs"
    assert files_below(own_features.path.parent) == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cache_limit": "500kB"}, "the features take 591.4 kB, more than the cache limit of 500.0 kB"),
        ({"unfreeze": "stem"}, "no layer below the cut has weights"),
        ({"views": "live"}, "each epoch has new views"),
        ({"epochs": 1, "views": 30}, "caching runs the trunk on 558 images, recomputing on 81 in 1"),
    ],
)
def test_features_are_recomputed_if_caching_does_not_pay(tune, options, reason):
    (plan,) = prepared(tune.run, out=None, **options).plan()

    assert plan.strategy == "recompute"
    assert plan.reason.startswith(reason)


def test_nothing_is_cached_on_a_nearly_full_disk(tune, monkeypatch):
    monkeypatch.setattr(plan_module, "free_bytes", lambda folder: 5 * 10**5)

    (plan,) = prepared(tune.run, out=None).plan()

    assert plan.strategy == "recompute"
    assert plan.reason == "the features take 591.4 kB, and 500.0 kB of the disk are free"


@pytest.mark.parametrize("limit", ["much", "-1", "20XB", ""])
def test_an_invalid_cache_limit_is_refused(tune, limit):
    with pytest.raises(OptionError, match="not a number of bytes; expected a number such as 20GB or 20GiB, found"):
        tune(cache_limit=limit)


# Stages


def test_gradual_unfreezing_trains_each_cut_from_where_the_last_one_ended(tune, sloppy_run):
    tuned = tune("top,left")

    stages = tuned.about["stages"]
    assert [(stage["from"], stage["epochs"]) for stage in stages] == [("top", 2), ("left", 2)]
    assert stages[1]["before"] == pytest.approx(stages[0]["after"], abs=1e-5)
    assert tuned.about["unfrozen"]["from"] == "left"
    assert [row["epoch"] for row in history_of(tuned)] == [1, 2, 3, 4]
    assert changed_layers(named_weights(sloppy_run.model), named_weights(tuned.model)) == {
        *("left", "right", "top", "head_probabilities")
    }


def test_each_stage_is_lower_than_the_one_before():
    assert find_stages("top,left", TINY, TINY) == find_stages(["top", 4], TINY, TINY) == [7, 4]
    assert find_stages(None, TINY, TINY) == [6]
    for wrong in (["left", "top"], "top,top"):
        with pytest.raises(OptionError, match="each stage unfreezes more than the one before; expected a layer below"):
            find_stages(wrong, TINY, TINY)


def test_lower_layers_have_lower_rates_and_the_head_has_the_full_rate(sloppy_run):
    model = keras.models.load_model(sloppy_run.model_path)
    set_trainable(model, TINY[2:], frozen=TINY[:2], train_batchnorm=False)

    rates = dict(zip((v.path for v in model.trainable_variables), step_rates(model, TINY, 0.0625), strict=True))

    assert rates["head_probabilities/kernel"] == 1
    assert [rates[f"{name}/kernel"] for name in ("stem", "left", "right", "top")] == [0.0625, 0.125, 0.25, 0.5]
    assert rates["stem/bias"] == rates["stem/kernel"]


@pytest.mark.parametrize("optimizer", [pytest.param("sgd", marks=pytest.mark.slow), "adam"])
def test_a_lower_rate_is_a_smaller_step(tune, sloppy_run, optimizer):
    options = {"epochs": 1, "batch_size": 18, "optimizer": optimizer, "momentum": 0.0, "learning_rate": 1e-3}
    start = named_weights(sloppy_run.model)

    whole, lower = tune("top", "whole", **options), tune("top", "lower", lowest_rate=0.25, **options)

    steps = [named_weights(run.model)["top/kernel"] - start["top/kernel"] for run in (whole, lower)]
    assert np.allclose(steps[1], 0.25 * steps[0], atol=1e-6)
    assert np.abs(steps[0]).max() > 0


@pytest.mark.parametrize("rate", [0.0, 1.5, -1.0])
def test_a_lowest_rate_that_is_not_a_fraction_is_refused(tune, rate):
    with pytest.raises(OptionError, match="lowest_rate is out of range; expected more than 0, at most 1, found"):
        tune(lowest_rate=rate)


# Never worse


def test_the_difference_on_test_images_has_an_interval(tune):
    difference = tune(epochs=6).about["test_difference"]

    low, high = difference["interval"]
    assert difference["n"] == 9
    assert low <= difference["accuracy_difference"] <= high


def test_a_paired_difference_compares_the_same_images():
    labels = np.zeros(100, np.int64)
    right, wrong = np.tile([0.9, 0.1], (100, 1)), np.tile([0.1, 0.9], (100, 1))
    mixed = np.concatenate([right[:80], wrong[80:]])

    assert paired_difference(labels, mixed, mixed)["interval"] == [0, 0]
    better = paired_difference(labels, mixed, right)
    assert better["accuracy_difference"] == pytest.approx(0.2)
    # The standard error of a fraction of 0.2 of 100 is 0.04.
    assert better["interval"] == pytest.approx([0.2 - 1.96 * 0.04, 0.2 + 1.96 * 0.04], abs=0.01)
    assert paired_difference(labels[:0], mixed[:0], right[:0]) == {"n": 0}


def test_training_that_diverges_stops_and_keeps_the_start(tune, sloppy_run):
    tuned = tune(learning_rate=1e30, epochs=9)

    (stage,) = tuned.about["stages"]
    assert (stage["diverged"], stage["epochs"], stage["improved"]) == (True, 1, False)
    assert tuned.about["details"]["after"] == tuned.about["details"]["before"]
    assert changed_layers(named_weights(sloppy_run.model), named_weights(tuned.model)) == set()


def test_a_learning_rate_of_0_from_cached_features_changes_no_bit(tune, sloppy_run):
    same = tune("stem_norm", learning_rate=0.0, train_batchnorm=False)

    assert same.about["stages"][0]["plan"]["strategy"] == "cached"
    assert changed_layers(named_weights(sloppy_run.model), named_weights(same.model)) == set()


def test_an_untrained_head_is_refused_unless_untrained_head_is_given(features, tmp_path):
    run = pf.fit_head(features, "dense", epochs=1, learning_rate=0.0, out=tmp_path / "random", progress=False)

    with pytest.raises(HeadError) as caught:
        pf.finetune(run, "top", out=tmp_path / "tuned", progress=False)

    line = one_error_line(caught.value)
    assert line.startswith(f"the head of {run.folder} is not trained: its large gradients would destroy the base; ")
    assert line.endswith("Fit the head better, or give --untrained-head")
    assert not (tmp_path / "tuned").exists()
    options = {"untrained_head": True, "epochs": 1, "progress": False}
    assert pf.finetune(run, "top", out=tmp_path / "tuned", **options).folder.exists()


def test_a_head_without_a_gradient_is_refused(own_run, tmp_path):
    edit_json(own_run / "run.json", lambda about: about.update(head="knn"))

    with pytest.raises(HeadError, match=r"knn has no useful gradient.*Fit another head"):
        pf.finetune(own_run, "top", out=tmp_path / "tuned", progress=False)


def test_mixed_precision_needs_a_gpu(tune):
    if keras.distribution.list_devices("gpu"):
        pytest.skip("there is a GPU")
    with pytest.raises(OptionError, match="mixed precision is slower without a GPU; expected a GPU, found none"):
        tune(mixed_precision=True)


@pytest.mark.slow
def test_in_mixed_precision_weights_stay_float32_and_are_nearly_the_same(tune, monkeypatch):
    monkeypatch.setattr("permafrost.finetuning.request.require_gpu", lambda: None)

    whole, mixed = tune(name="whole"), tune(name="mixed", mixed_precision=True)

    assert same_weights(whole, mixed, 3e-2)
    assert not same_weights(whole, mixed)
    assert {str(layer.dtype_policy.name) for layer in mixed.model.layers} == {"float32"}


# Resuming


ADAM = {"optimizer": "adam", "learning_rate": 0.01, "schedule": "cosine", "warmup_epochs": 1.0}


class KilledError(Exception):
    pass


@pytest.fixture
def kill(monkeypatch):
    """Make training die at the start of this epoch, counted from 0 over all stages; None stops that."""
    original = EpochCallback.on_epoch_begin
    left = [0]

    def counted(self, epoch, logs=None):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        original(self, epoch, logs)

    def kill(epochs: int | None) -> None:
        left[0] = epochs or 0
        monkeypatch.setattr(EpochCallback, "on_epoch_begin", counted if epochs else original)

    return kill


@pytest.mark.parametrize(
    ("epochs", "options"),
    [
        pytest.param(2, ADAM, marks=pytest.mark.slow),
        (3, {"views": 2, "lowest_rate": 0.3}),
        pytest.param(5, {"unfreeze": "top,left"}, marks=pytest.mark.slow),
        pytest.param(2, {"cache_limit": 0}, marks=pytest.mark.slow),
    ],
    ids=["adam and schedule", "views", "in the second stage", "recompute"],
)
def test_killed_training_resumes_to_the_same_result(tune, kill, tmp_path, epochs, options):
    options = {"epochs": 4, **options}
    whole = tune(name="whole", **options)
    kill(epochs)
    with pytest.raises(KilledError):
        tune(name="killed", **options)
    assert len(list((tmp_path / "runs").glob(".checkpoint-*.npz"))) >= 1
    assert not (tmp_path / "runs" / "killed").exists()
    kill(None)

    resumed = tune(name="killed", **options)

    assert same_weights(whole, resumed)
    assert history_of(whole) == history_of(resumed)
    assert leftovers(tmp_path) == []
    assert list((tmp_path / "runs").glob(".checkpoint-*")) == []


@pytest.mark.slow
def test_another_request_does_not_resume_from_a_checkpoint_and_removes_it_once_the_run_is_written(tune, kill, tmp_path):
    whole = tune(name="whole", epochs=4, seed=1)
    kill(2)
    with pytest.raises(KilledError):
        tune(name="killed", epochs=4)
    kill(None)

    assert history_of(tune(name="other", epochs=4, seed=1)) == history_of(whole)
    assert len(list((tmp_path / "runs").glob(".checkpoint-*"))) == 1
    assert history_of(tune(name="killed", epochs=4, seed=1)) == history_of(whole)
    assert list((tmp_path / "runs").glob(".checkpoint-*")) == []


@pytest.mark.slow
def test_a_damaged_checkpoint_is_ignored(tune, kill, tmp_path):
    whole = tune(name="whole", epochs=3)
    kill(2)
    with pytest.raises(KilledError):
        tune(name="killed", epochs=3)
    kill(None)
    (checkpoint,) = (tmp_path / "runs").glob(".checkpoint-*.npz")
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])

    assert same_weights(whole, tune(name="killed", epochs=3))


# As a base


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
        ({"preprocessing": "caffe"}, "is a run of another preprocessing; expected none, found caffe"),
    ],
)
def test_a_run_as_a_base_has_its_own_weights_and_preprocessing(run, split_photos, tmp_path, options, line):
    with pytest.raises(OptionError) as caught:
        pf.extract(split_photos, base=str(run.folder), out=tmp_path / "set.h5", progress=False, **options)

    assert one_error_line(caught.value).endswith(line)


# Damage


@pytest.mark.slow
def test_an_image_that_has_changed_is_refused_before_training(own_photos, tiny_base, tmp_path, split_photos):
    data = Path(shutil.copytree(split_photos, tmp_path / "data"))
    features = pf.extract(data, base=str(tiny_base), pool="avg", out=tmp_path / "f" / "set.h5", progress=False)
    run = pf.fit_head(features, "logistic", out=tmp_path / "run", progress=False)
    victim = Path(features.paths("validation")[1])
    shutil.copy(features.paths("test")[0], victim)

    with pytest.raises(RunError) as caught:
        pf.finetune(run, "top", out=tmp_path / "tuned", progress=False, **QUICK)

    assert f"cannot be trained on: {victim} has changed since its features were cached" in one_error_line(caught.value)
    assert leftovers(tmp_path) == []


def test_a_run_records_its_options(tune):
    tuned = tune(views=2, augment="flip", lowest_rate=0.5)

    options = tuned.about["options"]
    assert (options["views"], options["lowest_rate"], options["dtype"]) == (2, 0.5, "float32")
    assert options["augmentation"].startswith("flip;")
    assert json.dumps(tuned.about)


def test_cached_features_are_computed_with_the_limit_on_pixels_that_the_set_records(
    own_features, sloppy_run, monkeypatch
):
    (stage,) = prepared(sloppy_run, features=own_features)._stages
    assert stage.computation.count_missing()
    monkeypatch.setitem(own_features.about, "max_pixels", 1000)

    (limited,) = prepared(sloppy_run, features=own_features)._stages

    with pytest.raises(RunError, match=r"cannot be trained on: .*pixels; expected at most 1,?000"):
        limited.computation.run()
    stage.computation.run()
