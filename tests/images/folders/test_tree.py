"""The walk of a folder: links, system folders, and files without an extension."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from permafrost.images.dataset import read_dataset
from permafrost.images.folders.tree import Folder
from samples import SMALL_IMAGE, expanded, write_images


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "AVIF", "PPM", "JPEG2000"])
def test_a_file_without_an_extension_is_known_by_its_first_bytes(tmp_path, form):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "image", form)

    assert list(Folder(str(tmp_path)).walk()) == [("image", None)]


def test_heic_without_an_extension_is_known_by_its_first_bytes(tmp_path):
    (tmp_path / "image").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))

    assert list(Folder(str(tmp_path)).walk()) == [("image", None)]


@pytest.mark.parametrize(
    "start", [b"", b"BM", b"BM is a word" + bytes(30), b"%PDF-1", b"P1 is a place", bytes(4) + b"ftypmp42"]
)
def test_another_file_without_an_extension_is_no_image(tmp_path, start):
    (tmp_path / "file").write_bytes(start)
    os.mkfifo(tmp_path / "fifo")

    assert list(Folder(str(tmp_path)).walk()) == [
        ("fifo", "not an image (no extension)"),
        ("file", "not an image (no extension)"),
    ]


@pytest.mark.parametrize("name", ["1.nef", "1.CR2", "1.dng", "1.jpg.part"])
def test_an_unknown_extension_is_named_and_the_file_is_not_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"II*\0")

    assert list(Folder(str(tmp_path)).walk()) == [(name, f"not an image ({os.path.splitext(name)[1].lower()})")]


def test_folders_that_systems_add_are_skipped(tmp_path):
    write_images(tmp_path, "__MACOSX/a/1.jpg", "a/@eaDir/1.jpg", "a/2.jpg", "b/3.jpg")

    dataset = read_dataset(tmp_path)

    assert dataset.names == ("a/2.jpg", "b/3.jpg")
    assert dict(dataset.skipped) == {"__MACOSX": "a system folder", "a/@eaDir": "a system folder"}


def test_links_are_followed_to_class_folders_but_not_below_them(tmp_path):
    write_images(tmp_path, *expanded("else/a/1.jpg else/b/2.jpg else/more/3.jpg data/train/c/{4,5}.jpg"))
    for link, place in (("train/a", "a"), ("test/a", "a"), ("test/b", "b"), ("train/c/more", "more")):
        (tmp_path / "data" / link).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / link).symlink_to(tmp_path / "else" / place)
    (tmp_path / "data" / "train" / "up").symlink_to("..")

    dataset = read_dataset(tmp_path / "data")

    assert dataset.names == ("test/a/1.jpg", "test/b/2.jpg", "train/a/1.jpg", "train/c/4.jpg", "train/c/5.jpg")
    assert dict(dataset.skipped) == {"train/c/more": "a link to a folder", "train/up": "a link to a folder"}


def test_folders_deep_inside_each_other_end(tmp_path):
    write_images(tmp_path, "a/1.jpg", "b/" + "x/" * 150 + "2.jpg")

    reasons = set(dict(read_dataset(tmp_path, min_classes=1).skipped).values())

    assert reasons == {"a folder inside 100 others", "a class folder without images"}


def test_the_extension_of_an_image_may_be_in_any_case(tmp_path):
    (tmp_path / "1.JpEg").write_bytes(SMALL_IMAGE)

    assert list(Folder(str(tmp_path)).walk()) == [("1.JpEg", None)]
