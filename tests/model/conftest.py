"""Fixtures for the tests of models: models to open, and images to classify."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import pytest

from samples import encoded, texture


@pytest.fixture(scope="session")
def exported(run) -> keras.Model:
    """The run's model. Not to be changed."""
    return run.model


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory) -> Path:
    """A foreign model of a fixed size that finds the strongest of red, green and blue."""
    pixels = keras.Input((10, 12, 3))
    scaled = keras.layers.Rescaling(1 / 8)(keras.layers.GlobalAveragePooling2D()(pixels))
    path = tmp_path_factory.mktemp("foreign") / "colours.keras"
    keras.Model(pixels, keras.layers.Softmax()(scaled)).save(path)
    return path


@pytest.fixture
def bare(run, tmp_path) -> Path:
    """A copy of the run's model without the run."""
    return Path(shutil.copy(run.model_path, tmp_path / "mine.keras"))


@pytest.fixture
def holiday(tmp_path) -> Path:
    """Unlabelled images in a folder and a subfolder, beside hidden and other files."""
    folder = tmp_path / "holiday"
    (folder / "second-day").mkdir(parents=True)
    for number, kind in enumerate(("dots", "stripes")):
        (folder / f"{number}.png").write_bytes(encoded(texture(kind, 300 + number)))
    (folder / "second-day" / "2.JPG").write_bytes(encoded(texture("checks", 302), "JPEG"))
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("rain")
    return folder
