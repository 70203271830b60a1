"""Which data is a dataset, and its paths."""

from __future__ import annotations

import numpy as np
import pytest

from permafrost.errors import DatasetError
from permafrost.images.dataset import file_kind, path_of, read_dataset
from samples import write_images, write_photos


def test_reading_a_dataset_twice_gives_the_same(photos):
    assert read_dataset(photos) == read_dataset(str(photos) + "/")


def test_a_folder_may_be_named_like_a_table(tmp_path):
    dataset = read_dataset(write_photos(tmp_path / "photos.csv", per_class=1))

    assert dataset.name == "photos.csv"
    assert dataset.image(0).load().digest


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.csv", "table"), ("A.CSV", "table"), ("a.Tsv", "table"), ("A.NPZ", "arrays"), ("a", None), ("a.txt", None)],
)
def test_the_ending_of_a_file_in_any_case_says_what_it_holds(name, kind):
    assert file_kind(f"/data/{name}") == kind


def test_a_loaded_image_is_decoded_at_full_size_or_resized(photos):
    loaded = read_dataset(photos).image(0).load()

    assert loaded.full_size().shape == (40, 48, 3)
    assert np.array_equal(loaded.pixels((40, 48)), loaded.full_size())
    assert loaded.pixels((7, 9)).shape == (7, 9, 3)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ((), r"no images in .*; expected folders of images, one folder per class, found none"),
        (
            ("1.jpg", "2.jpg"),
            r"no class folders in .*, found 2 images, such as 1\.jpg\. Put .*, or list them in a \.csv",
        ),
        (
            ("a/1.txt", "b/2.txt", "b/3.md"),
            r"no images in .*, found 3 other entries, 2 of them: not an image \(\.txt\), such",
        ),
        (
            ("a/1.jpg", "b/2.heics"),
            r"only one class in .*, found a; skipped 1 other entry: not an image \(",
        ),
        (("a/1.jpg", "a/2.jpg"), r"only one class in .*; expected at least two, found a\. Put the images of each"),
        (("Cat/1.jpg", "cat/1.jpg"), r"upper and lower case; found Cat and cat\. Give both the same name"),
        (("train/a/1.jpg", "test/b/1.jpg", "test/B/1.jpg"), r"upper and lower case; found B and b"),
    ],
)
def test_a_folder_that_is_not_a_dataset_is_one_clear_error(tmp_path, names, line):
    with pytest.raises(DatasetError, match=line):
        read_dataset(write_images(tmp_path, *names))


def test_a_missing_dataset_is_named_in_the_error(tmp_path):
    with pytest.raises(DatasetError, match=r"no such folder or file: .*gone\. Give a folder .*, a \.csv or an \.npz"):
        read_dataset(tmp_path / "gone")


def test_another_kind_of_file_is_not_a_dataset(tmp_path):
    write_images(tmp_path, "1.jpg")

    with pytest.raises(
        DatasetError, match=r"not a dataset: .*; expected a folder, .*, found a file that ends in \.jpg\. Save"
    ):
        read_dataset(tmp_path / "1.jpg")


def test_a_path_is_relative_to_the_folder_or_to_the_folder_of_the_table():
    assert path_of("/data/photos", "a/1.jpg") == "/data/photos/a/1.jpg"
    assert path_of("/data/table.csv", "a/1.jpg") == "/data/a/1.jpg"
    assert path_of("/data/table.csv", "/else/1.jpg") == "/else/1.jpg"
