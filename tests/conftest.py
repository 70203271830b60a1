"""Fixtures of the whole suite: small and deterministic; see `samples`."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before Keras is imported: TensorFlow reads it once.
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is one worker per processor, so more threads per worker would only wait for each other.
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(threads, "1")

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

import samples

if TYPE_CHECKING:
    import keras

    from permafrost.trunk.bases import Base

# Helpers with asserts are shown as tests are; this comes before anything imports them.
pytest.register_assert_rewrite("helpers", "maintenance", "small_base", "tuning", "upper")

# Without deadlines, which fail on a busy machine.
hypothesis.settings.register_profile("suite", max_examples=25, deadline=None)
hypothesis.settings.load_profile("suite")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the project; skips the test without it."""
    if not SHARED.is_dir():
        pytest.skip(f"the folder of real images and weights is absent: {SHARED}")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def converted_once() -> Iterator[None]:
    """Convert each model to OpenVINO once for all tests, because the conversion takes most of their time."""
    from permafrost.engines import conversion, openvino_engine
    from permafrost.trunk.graph import architecture_digest, weights_digest

    convert, known = conversion.convert, {}

    def convert_once(model: keras.Model) -> conversion.ConvertedModel:
        key = architecture_digest(model), weights_digest(model)
        if key not in known:
            known[key] = convert(model)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_engine, "convert", convert_once)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base as a `.keras` file: 32 px, with a layer that scales its input. Do not change it."""
    path = tmp_path_factory.mktemp("bases") / "tiny.keras"
    samples.tiny_model().save(path)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 18 images, one folder per class. Do not change it."""
    return samples.write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def split_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 36 images, with `train`, `validation` and `test` folders. Do not change it."""
    return samples.write_split_photos(tmp_path_factory.mktemp("data") / "split-photos")


@pytest.fixture
def own_photos(photos: Path, tmp_path: Path) -> Path:
    """A copy of `photos` that a test may change."""
    return Path(shutil.copytree(photos, tmp_path / "own-photos"))


@pytest.fixture(scope="session")
def inception() -> Base:
    """Inception v3 at 75 px, with its real weights up to `mixed8` if available. Do not change it.

    Other layers of the same types are built before, so that Keras' automatic names do not start at zero.
    """
    import keras

    from permafrost.trunk.bases import load_base

    pixels = keras.Input((8, 8, 3))
    keras.layers.Activation("relu")(keras.layers.BatchNormalization()(keras.layers.Conv2D(1, 1)(pixels)))
    real = SHARED / "weights" / "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.through_mixed8.h5"
    return load_base("inception_v3", weights=str(real) if real.is_file() else "none", image_size=(75, 75))
