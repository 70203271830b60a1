"""Training from cached features equals training the whole model."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import permafrost as pf
from helpers import named_weights
from permafrost.engines import openvino_engine
from permafrost.engines.conversion import convert
from permafrost.errors import RunError
from permafrost.extraction.cache import FeatureCache
from permafrost.extraction.options import PipelineOptions
from permafrost.extraction.originals import Originals
from permafrost.finetuning import selection as selection_module
from permafrost.finetuning.cached import CachedFeatures, FeatureComputation
from permafrost.finetuning.frontier import cut_below
from permafrost.finetuning.layers import find_unfrozen, set_trainable
from permafrost.finetuning.run_features import find_features
from permafrost.finetuning.selection import ImageSelection
from permafrost.images.augmentation import Views
from permafrost.model.assembly import body_of, pixels_of
from permafrost.training.conv_gradient import quick_gradients
from permafrost.training.loop import Batches, Examples
from tuning import QUICK, RECOMPUTE, TINY, history_of, prepared, same_weights

pytest_plugins = ["upper", "tuning"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


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
