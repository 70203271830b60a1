"""Fixtures of the whole suite. What they give is small and always the same; see `samples`."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before Keras is imported: TensorFlow reads it once.
if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as processors: the threads of one's matrix products would only wait for those of another.
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

# Without deadlines: on a busy machine they fail what is right.
hypothesis.settings.register_profile("suite", max_examples=25, deadline=None)
hypothesis.settings.load_profile("suite")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the project, where there is one."""
    if not SHARED.is_dir():
        pytest.skip(f"the folder of real images and weights is absent: {SHARED}")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def converted_once() -> Iterator[None]:
    """Have OpenVINO convert each model once for all tests: it takes longer than all else that they do with it."""
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
    """A base as a `.keras` file: 32 px, with a layer that scales its input. Not to be changed."""
    path = tmp_path_factory.mktemp("bases") / "tiny.keras"
    samples.tiny_model().save(path)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 18 images, one folder a class. Not to be changed."""
    return samples.write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def split_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 36 images, with `train`, `validation` and `test` folders. Not to be changed."""
    return samples.write_split_photos(tmp_path_factory.mktemp("data") / "split-photos")


@pytest.fixture
def own_photos(photos: Path, tmp_path: Path) -> Path:
    """A copy of `photos` that a test may change."""
    return Path(shutil.copytree(photos, tmp_path / "own-photos"))


@pytest.fixture(scope="session")
def inception() -> Base:
    """Inception v3 at 75 px, with its real weights up to `mixed8` where they are at hand. Not to be changed.

    It is built after other layers of its kinds, so that Keras counts on from theirs.
    """
    import keras

    from permafrost.trunk.bases import load_base

    pixels = keras.Input((8, 8, 3))
    keras.layers.Activation("relu")(keras.layers.BatchNormalization()(keras.layers.Conv2D(1, 1)(pixels)))
    real = SHARED / "weights" / "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.through_mixed8.h5"
    return load_base("inception_v3", weights=str(real) if real.is_file() else "none", image_size=(75, 75))
