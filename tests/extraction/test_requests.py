"""A wrong request is one clear line, and nothing is computed or written."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
import pytest

from permafrost.errors import (
    BaseError,
    CutError,
    DatasetError,
    FeatureError,
    OptionError,
    PermafrostError,
    WeightsError,
)
from samples import CLASSES, PX, randomize, tiny_model, write_legacy, write_photos

pytest_plugins = ["upper"]


def nan_base(folder: Path) -> str:
    model = tiny_model()
    model.get_layer("right").kernel.assign(np.full(model.get_layer("right").kernel.shape, np.nan))
    model.save(folder / "nan.keras")
    return str(folder / "nan.keras")


def misfit(folder: Path) -> str:
    pixels = keras.Input((PX, PX, 3))
    other = keras.Model(pixels, keras.layers.Conv2D(4, 3, name="odd")(pixels))
    return str(write_legacy(other, folder / "misfit.h5"))


WRONG = {
    "no data": ({"data": "gone"}, DatasetError, "no such folder or file"),
    "one class": ({"data": "one"}, DatasetError, "only one class"),
    "unknown base": ({"base": "vgg_61"}, BaseError, "unknown base vgg_61"),
    "no such file": ({"base": "gone.keras"}, BaseError, "no model file gone.keras"),
    "unknown option": ({"base": "vgg16:alpha=1"}, BaseError, "vgg16 has no option"),
    "size too small": ({"base": "mobilenet", "image_size": 16}, BaseError, "expected at least 32 px, found 16x16"),
    "size of nothing": ({"image_size": 0}, OptionError, "image size too small"),
    "size in words": (
        {"image_size": "small"},
        OptionError,
        "expected a number of pixels, or HEIGHTxWIDTH, found small",
    ),
    "unknown cut": ({"cut": "mixed7"}, CutError, "tiny has no layer mixed7"),
    "a cut twice": ({"cut": ["top", -1]}, CutError, "given twice"),
    "no cut": ({"cut": []}, OptionError, "no layer to cut at"),
    "one of several cuts": ({"cut": ["top", "mixed7"]}, CutError, "tiny has no layer mixed7"),
    "no weights file": ({"weights": "gone.h5"}, WeightsError, "no weights file gone.h5"),
    "misfit weights": ({"weights": misfit}, WeightsError, "do not fit"),
    "NaN weights": ({"base": nan_base}, WeightsError, "weights of layer right from nan.keras are not finite"),
    "unknown pool": ({"pool": "median"}, OptionError, "unknown pool"),
    "unknown dtype": ({"dtype": "int8"}, OptionError, "unknown dtype"),
    "unknown precision": ({"precision": "float64"}, OptionError, "unknown precision"),
    "unknown engine": ({"engine": "abacus"}, OptionError, "unknown engine"),
    "unknown rule": ({"preprocessing": "imagenet"}, OptionError, "unknown preprocessing"),
    "unknown way": ({"on_bad": "cry"}, OptionError, "expected skip or fail, found cry"),
    "empty batches": ({"batch_size": 0}, OptionError, "batch_size is out of range; expected at least 1, found 0"),
    "no workers": ({"workers": 0}, OptionError, "workers is out of range"),
    "nothing to train on": ({"validation_fraction": 1.0}, OptionError, "leave nothing to train on"),
    "another ending": ({"out": "set.txt"}, OptionError, "a feature set is an HDF5 file; expected --out NAME.h5"),
    "a hidden file": ({"out": ".set.h5"}, OptionError, "not a name for a feature set; expected a visible file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_one_clear_line_and_nothing_is_written_or_computed(take, photos, tmp_path, computed, case):
    options, kind, line = WRONG[case]
    inputs = tmp_path / "inputs"
    write_photos(inputs / "one", classes=CLASSES[:1], per_class=1)
    options = {name: value(inputs) if callable(value) else value for name, value in options.items()}
    data = inputs / options.pop("data") if "data" in options else photos
    options.setdefault("out", "set.h5")
    options["out"] = tmp_path / "features" / options["out"]

    with pytest.raises(kind) as caught:
        take(data, **options)

    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PermafrostError)
    assert computed == []
    assert os.listdir(tmp_path) == ["inputs"]


def loud_base(folder: Path, scale: float) -> str:
    """A base whose features are too large for float16."""
    model = tiny_model()
    randomize(model)
    model.get_layer("top").kernel.assign(model.get_layer("top").kernel * scale)
    model.save(folder / "loud.keras")
    return str(folder / "loud.keras")


def test_features_too_large_for_float16_are_refused_naming_the_image(take, photos, tmp_path):
    line = (
        r"features of checks/checks-000\.png are not finite; expected numbers within float16, found numbers too large"
    )
    with pytest.raises(FeatureError, match=line + r" for it\. Store them with --dtype float32"):
        take(photos, base=loud_base(tmp_path, 1e6), dtype="float16")

    assert not (tmp_path / "features").exists()
    assert len(take(photos, base=loud_base(tmp_path, 1e6))) == 18


def test_features_that_are_not_finite_are_refused_naming_the_image(take, photos, tmp_path):
    line = r"features of checks/checks-000\.png are not finite; .*found NaN or infinity\. Cut at another layer"
    with pytest.raises(FeatureError, match=line):
        take(photos, base=loud_base(tmp_path, 1e38))

    assert not (tmp_path / "features").exists()
