"""Datasets in folders, and the images below a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from permafrost.images.dataset import read_dataset
from permafrost.images.decoding import content_digest
from permafrost.images.folders.tree import Folder
from permafrost.images.sources import FileImage
from samples import CLASSES, SMALL_IMAGE, write_images


def test_a_folder_of_class_folders_is_read_in_sorted_order(photos):
    dataset = read_dataset(photos)

    assert dataset.class_names == CLASSES
    assert dataset.names == tuple(sorted(dataset.names))
    assert len(dataset) == 18
    assert [dataset.class_names[label] for label in dataset.labels] == [name.split("/")[0] for name in dataset.names]
    assert set(dataset.splits) == {None}
    assert dataset.skipped == ()
    assert dataset.name == "photos"
    assert dataset.image(0) == FileImage(str(photos / dataset.names[0]))


@pytest.mark.parametrize("training", ["train", "training_set", "Train"])
@pytest.mark.parametrize("validation", ["validation", "val2017", "dev", "VAL"])
@pytest.mark.parametrize("testing", ["test", "Testing"])
def test_split_folders_are_recognised_by_their_usual_names(tmp_path, training, validation, testing):
    names = [f"{split}/{kind}/1.jpg" for split in (training, validation, testing) for kind in "ab"]

    dataset = read_dataset(write_images(tmp_path, *names))

    meaning = {training: "train", validation: "validation", testing: "test"}
    assert sorted(dataset.names) == sorted(names)
    assert list(dataset.splits) == [meaning[name.split("/")[0]] for name in dataset.names]
    assert dataset.class_names == ("a", "b")


def test_images_at_any_depth_below_a_class_folder_belong_to_the_class(tmp_path):
    dataset = read_dataset(write_images(tmp_path, "a/2020/may/1.jpg", "a/2.jpg", "b/3.jpg"))

    assert dataset.names == ("a/2.jpg", "a/2020/may/1.jpg", "b/3.jpg")
    assert dataset.labels == (0, 0, 1)


def test_a_class_folder_without_images_is_not_a_class(tmp_path):
    (tmp_path / "empty").mkdir()

    dataset = read_dataset(write_images(tmp_path, "a/1.jpg", "b/1.jpg", "texts/notes.txt"))

    assert dataset.class_names == ("a", "b")
    assert dict(dataset.skipped) == {
        "empty": "a class folder without images",
        "texts": "a class folder without images",
        "texts/notes.txt": "not an image (.txt)",
    }


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    (tmp_path / "a" / "empty.jpg").mkdir(parents=True)

    dataset = read_dataset(write_images(tmp_path, "a/full.jpg/1.jpg", "b/1.jpg"))

    assert dataset.names == ("a/full.jpg/1.jpg", "b/1.jpg")
    assert dataset.skipped == (("a/empty.jpg", "an empty folder"),)


def test_everything_that_is_not_an_image_is_skipped_with_a_reason(tmp_path):
    write_images(
        tmp_path, "a/1.jpg", "b/1.JPG", "a/notes.txt", "a/.DS_Store", ".git/x.jpg", "stray.jpg", "a/.cache/1.jpg"
    )
    (tmp_path / "a" / "linked.jpg").symlink_to(tmp_path / "b")

    dataset = read_dataset(tmp_path)

    assert dataset.names == ("a/1.jpg", "b/1.JPG")
    assert dict(dataset.skipped) == {
        "a/notes.txt": "not an image (.txt)",
        "a/.DS_Store": "hidden",
        "a/.cache": "hidden",
        ".git": "hidden",
        "stray.jpg": "not in a class folder",
        "a/linked.jpg": "a link to a folder",
    }


def test_everything_beside_the_split_folders_is_skipped_with_a_reason(tmp_path):
    write_images(
        tmp_path, "train/a/1.jpg", "test/a/2.jpg", "train/b/1.jpg", "extra/1.jpg", "stray.jpg", ".hidden/1.jpg"
    )

    write_images(tmp_path, "train/loose.jpg", "notes.txt")

    dataset = read_dataset(tmp_path)

    assert dataset.names == ("test/a/2.jpg", "train/a/1.jpg", "train/b/1.jpg")
    assert dict(dataset.skipped) == {
        "extra": "beside the split folders",
        "stray.jpg": "beside the split folders",
        ".hidden": "hidden",
        "notes.txt": "not an image (.txt)",
        "train/loose.jpg": "not in a class folder",
    }


def test_circular_links_are_not_followed(tmp_path):
    write_images(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "a" / "self.jpg").symlink_to("self.jpg")

    dataset = read_dataset(tmp_path)

    # The link that ends in .jpg gets its verdict when it is read.
    assert dataset.names == ("a/1.jpg", "a/self.jpg", "b/1.jpg")
    assert {name for name, _ in dataset.skipped} == {"a/up", "self"}


FILE_NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: not set(name) & {0, ord("/")} and name[0] != 0x2E)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(names=st.sets(FILE_NAMES, min_size=1, max_size=4))
def test_file_names_of_any_bytes_are_returned_byte_for_byte(tmp_path, names):
    shutil.rmtree(tmp_path)
    write_images(tmp_path, *(b"a/" + name + b".jpg" for name in names), b"b/1.jpg")

    dataset = read_dataset(tmp_path)

    found = {os.fsencode(name) for name, label in zip(dataset.names, dataset.labels, strict=True) if label == 0}
    assert found == {b"a/" + name + b".jpg" for name in names}
    for index in range(len(dataset)):
        assert dataset.image(index).load().digest == content_digest(SMALL_IMAGE)


def test_a_class_name_may_be_any_bytes(tmp_path):
    dataset = read_dataset(write_images(tmp_path, b"caf\xe9/1.jpg", b"b/1.jpg"))

    assert [os.fsencode(name) for name in dataset.class_names] == [b"b", b"caf\xe9"]


def test_file_names_do_not_depend_on_the_locale(tmp_path):
    write_images(tmp_path, b"a/caf\xc3\xa9.jpg", b"b/1.jpg")
    code = "import os, sys\nfrom permafrost.images.dataset import read_dataset\n"
    code += "print([os.fsencode(name) for name in read_dataset(sys.argv[1]).names])"

    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, str(tmp_path)],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == str([b"a/caf\xc3\xa9.jpg", b"b/1.jpg"])


def test_walking_a_folder_gives_each_image_and_the_reason_for_everything_else(tmp_path):
    write_images(tmp_path, "b.jpg", "a/1.png", "a/.thumbs/1.jpg", ".hidden.jpg", "notes.txt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "up.jpg").symlink_to(tmp_path)

    assert list(Folder(str(tmp_path)).walk()) == [
        (".hidden.jpg", "hidden"),
        ("a/.thumbs", "hidden"),
        ("a/1.png", None),
        ("b.jpg", None),
        ("empty", "an empty folder"),
        ("notes.txt", "not an image (.txt)"),
        ("up.jpg", "a link to a folder"),
    ]


def test_walking_a_folder_that_cannot_be_read_gives_the_reason(tmp_path):
    assert Folder(str(tmp_path / "gone")).error == "No such file or directory"
