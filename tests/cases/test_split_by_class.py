"""A split is drawn class by class: what the product holds out never leaves a class without training images.

Public bug reports: huggingface/datasets#5532, pycaret/pycaret#311.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import permafrost as pf
from permafrost.heads.data import split_rows
from samples import CLASSES, encoded, texture, write_photos

pytest_plugins = ["upper"]


def with_one_stripes(folder: Path, number: int, *, first: int) -> Path:
    """Write images of two classes and a single one, which differs with `number`, of a third."""
    write_photos(folder, per_class=12, classes=CLASSES[:2], first=first)
    (folder / "stripes").mkdir()
    (folder / "stripes" / "only.png").write_bytes(encoded(texture("stripes", number)))
    return folder


@pytest.mark.parametrize("number", range(6))
def test_the_only_image_of_a_class_is_for_training(take, tmp_path, number):
    features = take(with_one_stripes(tmp_path / "data", number, first=20 * number))

    assert features.labels("train").tolist().count(CLASSES.index("stripes")) == 1


@pytest.mark.parametrize("number", range(6))
def test_the_only_image_of_a_class_is_not_held_out_to_validate_a_fit(take, tmp_path, number):
    with_one_stripes(tmp_path / "data" / "train", number, first=20 * number)
    features = take(tmp_path / "data")

    rows = split_rows(features, hold_out=True)

    labels = features.labels()
    assert len(rows["validation"]) >= 1
    assert CLASSES.index("stripes") in labels[rows["train"]]
    assert CLASSES.index("stripes") not in labels[rows["validation"]]


@pytest.mark.usefixtures("light")
def test_a_keras_head_is_fitted_to_a_class_with_a_single_image(take, tmp_path):
    with_one_stripes(tmp_path / "data" / "train", 0, first=0)

    run = pf.fit_head(take(tmp_path / "data"), "linear", epochs=1, out=tmp_path / "run", progress=False)

    assert run.metrics["train"]["classes"]["stripes"]["n"] == 1
    assert run.metrics["validation"]["classes"]["stripes"]["n"] == 0


@pytest.mark.parametrize("number", range(8))
def test_a_class_of_three_images_has_two_to_choose_a_setting_on(take, tmp_path, number):
    data = write_photos(tmp_path / "data", per_class=12, classes=CLASSES[:2])
    write_photos(data, per_class=3, classes=CLASSES[2:], first=3 * number)

    features = take(data)

    assert features.labels("train").tolist().count(CLASSES.index("stripes")) >= 2


@pytest.mark.parametrize("number", range(4))
def test_one_image_of_each_class_and_a_copy_of_it_is_enough(take, tmp_path, number):
    data = write_photos(tmp_path / "data", per_class=1, first=number)
    for path in list(data.rglob("*.*")):
        shutil.copy(path, path.with_stem("copy"))

    features = take(data)

    assert np.unique(features.labels("train")).tolist() == [0, 1, 2]
    assert len(features.rows("train")) == len(features)
