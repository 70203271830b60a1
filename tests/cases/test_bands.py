"""Rasters, scans and phone photos among other images are read rightly or skipped for the true reason, in silence."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from PIL import Image

import permafrost as pf
from permafrost.errors import ImageError
from permafrost.images.dataset import read_dataset
from samples import CLASSES, encoded, texture
from tiffs import tiff

PHOTO = texture("dots", 0, (32, 32))
NEAR_INFRARED = np.full((32, 32, 1), 128, np.uint8)
HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(40)

FILES = {
    "rgbn8.tif": tiff(np.concatenate([PHOTO, NEAR_INFRARED], axis=2), extra=[0]),
    "rgbn16.tif": tiff(np.concatenate([PHOTO, NEAR_INFRARED], axis=2).astype(np.uint16) * 257, extra=[0]),
    "seven16.tif": tiff(np.zeros((32, 32, 7), np.uint16), extra=[0] * 4),
    "float.tif": encoded(PHOTO.mean(axis=2).astype(np.float32), "TIFF"),
    "scan.jpg": bytes(128) + b"DICM" + bytes(64),
    "array.png": b"\x93NUMPY\1\0" + bytes(64),
    "photo.heic": HEIC,
    "phone.jpg": HEIC,
}


@pytest.fixture
def skipped(tmp_path, monkeypatch, capfd) -> dict[str, str]:
    """The reasons of the files that cannot be decoded, without the library that reads HEIC."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name, data in FILES.items():
        (tmp_path / "sat" / "crop").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sat" / "crop" / name).write_bytes(data)
    dataset = read_dataset(tmp_path / "sat", min_classes=1)
    assert len(dataset) == len(FILES), "none of them is dropped silently"
    reasons = {}
    for index, name in enumerate(dataset.names):
        try:
            pixels = dataset.image(index).load().full_size()
        except ImageError as error:
            reasons[name.removeprefix("crop/")] = str(error)
        else:
            assert np.abs(pixels.astype(int) - PHOTO).max() <= 1
    assert capfd.readouterr().err == ""
    return reasons


def test_what_cannot_be_read_is_skipped_for_the_true_reason(skipped):
    assert skipped == {
        "seven16.tif": "too many bands; expected grey or RGB, found a TIFF with 7 bands of 16 bits. "
        "Save the three bands to show as RGB",
        "float.tif": "pixels of no known range; expected 8 or 16 bits per channel, found floating point",
        "scan.jpg": "not an image in any format that is read; found a DICOM file. Export its images as PNG or TIFF",
        "array.png": "not an image in any format that is read; found a NumPy array. "
        "Save arrays as a dataset with numpy.savez, or as PNG",
        "photo.heic": "HEIC, which needs another library. Install pillow-heif (the extra heic), or convert it to JPEG",
        "phone.jpg": "HEIC, which needs another library. Install pillow-heif (the extra heic), or convert it to JPEG",
    }


def test_with_its_library_heic_is_read_whatever_its_name(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    for name in ("crop/photo.heic", "water/phone.jpg"):
        (tmp_path / name).parent.mkdir()
        pillow_heif.from_pillow(Image.fromarray(PHOTO)).save(tmp_path / name, format="HEIF", quality=-1, chroma=444)

    dataset = read_dataset(tmp_path)

    assert len(dataset) == 2
    for index in range(2):
        assert np.abs(dataset.image(index).load().full_size().astype(int) - PHOTO).max() <= 2


@pytest.mark.parametrize(("scale", "warned"), [(16, True), (257, False)])
def test_files_of_16_bits_that_hold_12_are_warned_of_if_all_images_are_nearly_black(tmp_path, tiny_base, scale, warned):
    for kind in CLASSES[:2]:
        (tmp_path / "scans" / kind).mkdir(parents=True)
        for seed in range(4):
            grey = texture(kind, seed, (32, 32)).mean(axis=2) * scale
            (tmp_path / "scans" / kind / f"{seed}.png").write_bytes(encoded(grey.astype(np.uint16)))

    features = pf.extract(tmp_path / "scans", base=str(tiny_base), pool="avg", out=tmp_path / "set.h5")

    assert any("the images are nearly black" in line for line in features.summary["warnings"]) == warned
