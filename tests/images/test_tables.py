"""Datasets in CSV files."""

from __future__ import annotations

import os

import pytest

from permafrost.errors import DatasetError, ImageError
from permafrost.images.dataset import read_dataset
from permafrost.images.decoding import content_digest
from samples import SMALL_IMAGE, write_images


def write_csv(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding, "surrogateescape"))
    return path


def test_a_csv_gives_paths_relative_to_its_folder_labels_and_splits(tmp_path):
    write_images(tmp_path, "x/1.jpg", "2.jpg", "3.jpg")
    text = f"path,label,split\nx/1.jpg,dog,train\n2.jpg,cat,val\n{tmp_path}/3.jpg,cat,\n"

    dataset = read_dataset(write_csv(tmp_path, text))

    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels == (1, 0, 0)
    assert dataset.splits == ("train", "validation", None)
    assert dataset.name == "table"
    for index in range(3):
        assert dataset.image(index).load().digest == content_digest(SMALL_IMAGE)


def test_columns_of_a_csv_may_be_in_any_order_and_the_split_is_optional(tmp_path):
    dataset = read_dataset(write_csv(tmp_path, "note,label,path\nnice, dog ,1.jpg\n,cat,2.jpg\n"))

    assert dataset.names == ("1.jpg", "2.jpg")
    assert dataset.labels == (1, 0)
    assert dataset.splits == (None, None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_may_start_with_a_byte_order_mark_and_name_files_in_any_bytes(tmp_path, encoding):
    dataset = read_dataset(write_csv(tmp_path, 'path,label\n"a\nb.jpg",a\ncaf\udce9.jpg,b\n', encoding))

    assert [os.fsencode(name) for name in dataset.names] == [b"a\nb.jpg", b"caf\xe9.jpg"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", r"columns missing in .*table\.csv; expected path, label and optionally split, found an empty file"),
        ("file,label\n", r"columns missing in .*; expected path, label .*, found file,label"),
        ("path,label\n1.jpg,a\n,b\n", r"no path in .*table\.csv, line 3\. Fill in the path or remove the line"),
        ("path,label\n1.jpg\n", r"no label in .*table\.csv, line 2\. Fill in the label or remove the line"),
        (
            "path,label,split\n1.jpg,a,query\n",
            r"unknown split in .*, line 2; expected train, validation, test, found query",
        ),
        ("path,label\n1.jpg,a\n2.jpg,a\n", r"only one class in .*; expected at least two, found a"),
        ("path,label\n", r"no images in .*table\.csv"),
        ("path,label\n1.jpg,Cat\n2.jpg,cat\n", r"two class names in .* upper and lower case .*; found Cat and cat"),
        ("path,label\n" + "x" * 200_000 + ",a\n", r"cannot read .*table\.csv, line 2; found field larger than"),
        ("x" * 200_000 + "\n1.jpg,a\n", r"cannot read .*table\.csv, line 1; found field larger than"),
    ],
)
def test_an_invalid_csv_is_one_clear_error(tmp_path, text, line):
    with pytest.raises(DatasetError, match=line):
        read_dataset(write_csv(tmp_path, text))


def test_an_impossible_file_name_is_an_error_of_its_image_only(tmp_path):
    dataset = read_dataset(write_csv(tmp_path, "path,label\na\0b.jpg,a\n2.jpg,b\n"))

    with pytest.raises(ImageError, match="no file can have this name"):
        dataset.image(0).load()
