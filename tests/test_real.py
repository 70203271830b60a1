"""Extract, fit and export with each known base, and with real weights and photographs if they are available."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import permafrost as pf
from permafrost.extraction.originals import Originals
from permafrost.model.parity import TOLERANCE
from permafrost.trunk.bases import load_base
from permafrost.trunk.cutting import build_trunks
from permafrost.trunk.table import BASES

pytest_plugins = ["upper"]

INCEPTION_WEIGHTS = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.through_mixed8.h5"
MOBILENET_WEIGHTS = {"without": "mobilenet_2_5_224_tf_no_top.h5", "with": "mobilenet_2_5_224_tf.h5"}
QUICK = ("mobilenet", "mobilenet_v3_small", "vgg16")
"""Small bases, one per preprocessing rule, that run in seconds."""

TOO_LONG = 1800
"""Timeout in seconds: the largest bases have hundreds of millions of weights."""


def extract_and_fit(name: str, photos: Path, folder: Path) -> pf.Run:
    """Make a model from images, on a base with random weights at its minimum size."""
    features = pf.extract(
        photos,
        base=name,
        weights="none",
        image_size=BASES[name].minimum_size,
        pool="avg",
        validation_fraction=0,
        test_fraction=0,
        out=folder / "features" / "photos.h5",
        progress=False,
    )
    run = pf.fit_head(features, "logistic", regularization=1.0, out=folder / "run", progress=False)
    assert (features.summary["computed"], run.about["parity"]["images"]) == (6, 6)
    return run


@pytest.fixture
def six(photos, tmp_path) -> Path:
    """Copy two images of each class."""
    for path in sorted(photos.rglob("*-00[01].*")):
        place = tmp_path / "six" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return tmp_path / "six"


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")
def test_a_base_becomes_an_exported_model_at_its_minimum_size(name, six, tmp_path, light):
    run = extract_and_fit(name, six, tmp_path)

    assert run.about["parity"]["resized_max_difference"] <= TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(TOO_LONG)
@pytest.mark.parametrize("name", BASES)
def test_every_base_becomes_an_exported_model_at_its_minimum_size(name, six, tmp_path):
    try:
        run = extract_and_fit(name, six, tmp_path)

        assert run.about["parity"]["resized_max_difference"] <= TOLERANCE
        assert run.model.outputs[0].shape == (None, 3)
    finally:
        # Some take gigabytes of memory and disk.
        keras.backend.clear_session()
        gc.collect()
        shutil.rmtree(tmp_path)


def test_vgg16_at_150_px_has_4_by_4_by_512_features_per_image():
    (trunk,) = build_trunks(load_base("vgg16", weights="none", image_size=(150, 150)))

    assert trunk.spec.shapes == ((4, 4, 512),)
    assert trunk.spec.cut == "block5_pool"


@pytest.fixture(scope="module")
def forty(shared, tmp_path_factory) -> Path:
    """Forty photographs of cats and dogs."""
    folder = tmp_path_factory.mktemp("forty") / "forty"
    for kind in ("cats", "dogs"):
        (folder / kind).mkdir(parents=True)
        source = shared / "data" / "cats_dogs" / "train" / kind
        for name in sorted(os.listdir(source))[:20]:
            shutil.copy(source / name, folder / kind)
    return folder


def test_published_weights_with_and_without_classifier_give_equal_features(shared, forty, tmp_path):
    def extract(weights: str):
        path = str(shared / "weights" / MOBILENET_WEIGHTS[weights])
        out = tmp_path / "features" / f"{weights}.h5"
        return pf.extract(forty, base="mobilenet:alpha=0.25", weights=path, pool="avg", out=out, progress=False)

    without, with_classifier = extract("without"), extract("with")

    assert (without.summary["computed"], with_classifier.summary["computed"]) == (40, 0)
    assert without.spec.digest == with_classifier.spec.digest
    assert without.spec.image_size == (224, 224)
    reference = keras.applications.MobileNet(
        alpha=0.25, include_top=False, input_shape=(224, 224, 3), pooling="avg", weights=without_top(shared)
    )
    rows = np.arange(0, 40, 5)
    pixels = np.stack([Originals(without).pixels(int(row)) for row in rows]).astype(np.float32)
    expected = reference.predict(keras.applications.mobilenet.preprocess_input(pixels), verbose=0)
    assert np.abs(without.features(rows) - expected).max() <= 1e-4 * np.abs(expected).max()


def without_top(shared: Path) -> str:
    return str(shared / "weights" / MOBILENET_WEIGHTS["without"])


@pytest.fixture(scope="module")
def cats_dogs(shared) -> Path:
    """1,000 photographs of cats and dogs for training, 400 for validation, 600 for test."""
    return shared / "data" / "cats_dogs"


def inception_features(shared: Path, data: Path, out: Path, *, pool: str):
    weights = str(shared / "weights" / INCEPTION_WEIGHTS)
    return pf.extract(
        data, base="inception_v3", weights=weights, cut="mixed7", pool=pool, image_size=150, out=out, progress=False
    )


@pytest.fixture(scope="module")
def pooled(shared, cats_dogs, tmp_path_factory):
    """Averaged `mixed7` features of `cats_dogs` at 150 px."""
    return inception_features(shared, cats_dogs, tmp_path_factory.mktemp("real") / "cats_dogs.h5", pool="avg")


@pytest.fixture(scope="module")
def fitted(pooled, tmp_path_factory) -> pf.Run:
    """A logistic head on `pooled`."""
    return pf.fit_head(pooled, "logistic", out=tmp_path_factory.mktemp("real-runs") / "logistic", progress=False)


@pytest.mark.slow
@pytest.mark.timeout(TOO_LONG)
def test_a_logistic_head_on_real_features_has_a_test_accuracy_of_0_970(fitted):
    assert fitted.metrics["test"]["n"] == 600
    assert fitted.metrics["test"]["accuracy"] >= 0.970
    assert fitted.about["parity"]["images"] == 64
    assert fitted.about["parity"]["resized_max_difference"] <= TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(TOO_LONG)
def test_the_model_on_files_agrees_with_the_head_on_features_to_one_photograph(fitted, cats_dogs):
    metrics = pf.evaluate(fitted, cats_dogs)

    assert metrics["n"] == 600
    assert abs(metrics["accuracy"] - fitted.metrics["test"]["accuracy"]) <= 1 / 600 + 1e-9


@pytest.mark.slow
@pytest.mark.timeout(TOO_LONG)
def test_real_features_equal_those_of_keras_on_the_same_pixels(pooled, shared):
    weights = str(shared / "weights" / INCEPTION_WEIGHTS)
    base = keras.applications.InceptionV3(include_top=False, weights=weights, input_shape=(150, 150, 3))
    reference = keras.Model(base.input, base.get_layer("mixed7").output)
    rows = np.arange(0, len(pooled), 50)
    pixels = np.stack([Originals(pooled).pixels(int(row)) for row in rows]).astype(np.float32)

    expected = reference.predict(keras.applications.inception_v3.preprocess_input(pixels), verbose=0).mean(axis=(1, 2))

    assert np.abs(pooled.features(rows) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.timeout(TOO_LONG)
def test_photographs_are_computed_once_even_if_renamed_and_moved(pooled, shared, cats_dogs, tmp_path):
    copies = tmp_path / "elsewhere"
    for number, path in enumerate(sorted(cats_dogs.rglob("*.jpg"), reverse=True)):
        place = copies / f"kind of {path.parent.name}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / f"{number}.jpg")

    again = inception_features(shared, cats_dogs, pooled.path, pool="avg")
    renamed = inception_features(shared, copies, pooled.path.with_name("renamed.h5"), pool="avg")

    assert (again.summary["computed"], again.summary["cached"]) == (0, 2000)
    assert (renamed.summary["computed"], renamed.summary["cached"]) == (0, 2000)
    assert renamed.class_names == ["kind of cats", "kind of dogs"]


@pytest.mark.slow
@pytest.mark.timeout(TOO_LONG)
def test_a_dense_head_on_unpooled_real_features_has_a_test_accuracy_of_0_955(shared, cats_dogs, tmp_path):
    features = inception_features(shared, cats_dogs, tmp_path / "maps.h5", pool="none")

    run = pf.fit_head(features, "dense", out=tmp_path / "run", progress=False)

    assert features.shape == (7, 7, 768)
    assert run.metrics["test"]["accuracy"] >= 0.955
    shutil.rmtree(tmp_path)
