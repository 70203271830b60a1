"""A set whose features hardly vary can be fitted with any head; its run has a warning, and is not refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import permafrost as pf
from helpers import one_error_line
from permafrost import cli
from permafrost.errors import HeadError
from permafrost.heads.options import HEADS
from permafrost.heads.variation import MIN_VARIATION, variation
from permafrost.store.feature_set import FeatureSet
from samples import encoded, write_photos


def write_masks(folder: Path, *, per_class: int = 10) -> Path:
    """Write silhouettes of two classes as files with the levels 0 and 1, which are nearly black."""
    for kind, name in enumerate(("bus", "car")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            random = np.random.default_rng(100 * kind + number)
            mask = np.zeros((32, 32, 3), np.uint8)
            top, left = random.integers(0, 8, 2)
            mask[top : top + 12 + 8 * kind, left : left + 20 - 8 * kind] = 1
            (folder / name / f"{number}.png").write_bytes(encoded(mask))
    return folder


@pytest.fixture(scope="module")
def masks(tiny_base, tmp_path_factory) -> FeatureSet:
    folder = tmp_path_factory.mktemp("masks")
    data = write_masks(folder / "masks")
    return pf.extract(data, base=str(tiny_base), out=folder / "features" / "masks.h5", progress=False)


@pytest.mark.parametrize("head", HEADS)
def test_any_head_can_be_fitted_to_features_that_hardly_vary_and_the_run_says_so(head, masks, tmp_path):
    options = {"epochs": 2} if head in ("dense", "linear", "conv") else {}

    run = pf.fit_head(masks, head, out=tmp_path / "run", progress=False, **options)

    assert any("the features of the training images hardly vary" in line for line in run.about["warnings"])
    assert run.describe()["warnings"] == run.about["warnings"]
    assert run.about["parity"]["head_max_difference"] <= 1e-4


def test_features_on_disk_that_hardly_vary_are_recognised_from_their_sample(masks, tmp_path):
    run = pf.fit_head(masks, "linear", out=tmp_path / "run", epochs=2, memory_limit="200kB", progress=False)

    assert run.about["details"]["fitted"] != "in memory"
    assert any("hardly vary" in line for line in run.about["warnings"])


def test_the_warning_is_printed_before_the_results(masks, tmp_path, capsys):
    assert cli.run(["fit-head", str(masks.path), "--head", "ridge", "--out", str(tmp_path / "run")]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warning: the features of the training images hardly vary")
    assert any(line.startswith("test: ") for line in lines[1:])


def test_ordinary_images_have_no_warning(tiny_base, tmp_path):
    features = pf.extract(
        write_photos(tmp_path / "photos"), base=str(tiny_base), out=tmp_path / "f" / "p.h5", progress=False
    )

    assert variation(features.arrays("train")[0]) > 5 * MIN_VARIATION
    assert pf.fit_head(features, "ridge", out=tmp_path / "run", progress=False).about["warnings"] == []


def test_images_that_are_all_the_same_are_refused(tiny_base, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "black" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.zeros((32 + number, 32, 3), np.uint8)
            (tmp_path / "black" / name / f"{number}.png").write_bytes(encoded(pixels))
    features = pf.extract(
        tmp_path / "black", base=str(tiny_base), out=tmp_path / "f" / "p.h5", engine="keras", progress=False
    )

    with pytest.raises(HeadError) as caught:
        pf.fit_head(features, "ridge", out=tmp_path / "run", progress=False)

    assert "all images have the same features" in one_error_line(caught.value)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.array([[1.0, 0.0], [-1.0, 0.0]]), 1.0),
        (np.array([[100.0, 0.0], [101.0, 0.0]]), 0.5 / 100.5),
        (np.zeros((3, 2)), 0.0),
        (1e4 + np.arange(3000.0)[:, None] % 2, 5e-5),
    ],
)
def test_variation_is_relative_to_the_size_of_features(x, expected):
    assert variation(x.astype(np.float32)) == pytest.approx(expected, rel=1e-3)
