"""Levels of folders: which are classes, which are splits, and what has two readings."""

from __future__ import annotations

import collections
import itertools
import json
import unicodedata

import pytest

from permafrost.cli import run
from permafrost.errors import DatasetError
from permafrost.images.dataset import Dataset, read_dataset
from permafrost.images.options import ReadingOptions
from samples import CLASSES, SMALL_IMAGE, encoded, texture, write_images


def counts(dataset: Dataset) -> dict[tuple[str | None, str], int]:
    """Return the number of images of each split and class."""
    found = zip(dataset.splits, dataset.labels, strict=True)
    return dict(collections.Counter((split, dataset.class_names[label]) for split, label in found))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("train_images", "test_images"),
        ("seg_train", "seg_test"),
        ("Training", "Test"),
        ("train", "dev"),
        ("train", "validate"),
        ("asl_alphabet_train", "asl_alphabet_test"),
        ("images_train", "val2017"),
        ("1_train", "2_test"),
        ("trainset", "testset"),
    ],
)
def test_split_folders_are_known_by_the_usual_spellings(tmp_path, train, test):
    # Public bug reports: fastai/fastai#1552, ultralytics/ultralytics#4310.
    dataset = read_dataset(
        write_images(tmp_path, *(f"{split}/{kind}/1.png" for split in (train, test) for kind in "ab"))
    )

    other = "validation" if test in ("dev", "validate", "val2017") else "test"
    assert dataset.class_names == ("a", "b")
    assert counts(dataset) == {(split, kind): 1 for split in ("train", other) for kind in "ab"}


def test_class_folders_in_a_test_folder_alone_are_all_for_test(tmp_path):
    dataset = read_dataset(write_images(tmp_path, "testing/a/1.png", "testing/b/1.png"))

    assert counts(dataset) == {("test", "a"): 1, ("test", "b"): 1}


def test_the_same_split_folders_in_every_class_folder_are_the_split(tmp_path):
    # Public bug reports: amazon-science/patchcore-inspection#25, fastai/fastai#2336.
    names = [f"{kind}/{split}/{number}.png" for kind in "ab" for split in ("train", "test") for number in range(2)]

    dataset = read_dataset(write_images(tmp_path, *names, "b/ground_truth/mask.png", "readme.txt"))

    assert counts(dataset) == {(split, kind): 2 for split in ("train", "test") for kind in "ab"}
    assert dict(dataset.skipped) == {
        "b/ground_truth": "beside the split folders",
        "readme.txt": "not an image (.txt)",
    }


def test_a_class_called_like_a_split_is_refused_until_the_layout_confirms_it(tmp_path):
    # Public bug report: JaminFong/DenseNAS#9.
    folder = write_images(
        tmp_path, *(f"{name}/1.png" for name in ("bus/x", "bus/y", "car/x", "car/y", "train/steam", "train/tram"))
    )

    with pytest.raises(DatasetError) as refused:
        read_dataset(folder)

    assert "classes bus, car, train (--layout class), or split folders train beside other folders" in str(refused.value)
    assert "(--layout split/class)" in str(refused.value)
    assert read_dataset(folder, ReadingOptions(layout="class")).class_names == ("bus", "car", "train")
    assert counts(read_dataset(folder, ReadingOptions(layout="split/class"))) == {
        ("train", "steam"): 1,
        ("train", "tram"): 1,
    }


@pytest.mark.parametrize("names", [("bus", "car", "train"), ("train", "test"), ("valid", "invalid")])
def test_folders_of_loose_images_called_like_splits_are_refused(tmp_path, names):
    folder = write_images(tmp_path, *(f"{name}/1.png" for name in names))

    with pytest.raises(
        DatasetError, match=r"two ways; found classes .* \(--layout class\), or split folders .* without"
    ):
        read_dataset(folder)

    assert read_dataset(folder, ReadingOptions(layout="class")).class_names == tuple(sorted(names))


@pytest.mark.parametrize("inner", ["xy", "yz"])
def test_class_folders_that_hold_only_folders_are_refused(tmp_path, inner):
    folder = write_images(tmp_path, "a/x/1.png", "a/y/1.png", *(f"b/{name}/1.png" for name in inner))

    with pytest.raises(DatasetError) as refused:
        read_dataset(folder)

    below = ", ".join(sorted({*"xy", *inner}))
    assert f"found classes a, b (--layout class), or classes {below} (--layout '*/class')" in str(refused.value)
    assert read_dataset(folder, ReadingOptions(layout="class")).class_names == ("a", "b")
    assert read_dataset(folder, ReadingOptions(layout="*/class")).class_names == tuple(sorted({*"xy", *inner}))


def test_images_without_an_extension_are_known_by_their_first_bytes(tmp_path):
    # Public bug reports: AMMICO#107, pytorch/vision#707.
    write_images(tmp_path, "a/0a001", "b/1a002")
    (tmp_path / "a" / "LICENSE").write_text("BM is not a bitmap")

    dataset = read_dataset(tmp_path)

    assert dataset.names == ("a/0a001", "b/1a002")
    assert dataset.skipped == (("a/LICENSE", "not an image (no extension)"),)


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    # Public bug report: llmsresearch/paperbanana#234.
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    names = (f"train/{composed}/1.png", "train/th\u00e9/1.png", f"test/{decomposed}/2.png", f"test/{decomposed}/3.png")

    dataset = read_dataset(write_images(tmp_path, *names))

    assert counts(dataset) == {("train", composed): 1, ("train", "th\u00e9"): 1, ("test", composed): 2}
    assert {name for name, split in zip(dataset.names, dataset.splits, strict=True) if split == "test"} == set(
        names[2:]
    )
    assert all(dataset.image(index).load().content == SMALL_IMAGE for index in range(len(dataset)))


def test_two_folders_of_one_class_in_two_unicode_forms_are_one_class(tmp_path):
    dataset = read_dataset(write_images(tmp_path, "caf\u00e9/1.png", "cafe\u0301/2.png", "b/3.png"))

    assert counts(dataset) == {(None, "caf\u00e9"): 2, (None, "b"): 1}


def test_extract_refuses_two_readings_in_one_line_and_takes_the_layout(tmp_path, tiny_base, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, kind in itertools.product(range(2), CLASSES[:2]):
        place = tmp_path / "photos" / str(2019 + number) / kind
        place.mkdir(parents=True)
        (place / "1.png").write_bytes(encoded(texture(kind, number)))
    command = ["extract", "photos", "--base", str(tiny_base)]

    assert run([*command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "two ways; found classes 2019, 2020 (--layout class), or classes checks, dots (--layout '*/class')" in line
    assert run([*command, "--layout", "*/class", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["checks", "dots"]
