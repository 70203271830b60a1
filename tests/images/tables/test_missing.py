"""Of an image of a table that is missing, the error says where it was looked for, and where one is that may be."""

from __future__ import annotations

import os

import pytest

from permafrost.errors import ImageError
from permafrost.images.dataset import read_dataset
from permafrost.images.tables.missing import MissingImages
from samples import write_images


def describe_missing(folder, path):
    return MissingImages(str(folder)).describe(path)


def test_the_folder_is_named_where_an_image_was_looked_for(tmp_path):
    assert describe_missing(tmp_path, "a/1.jpg") == f"no such file in {tmp_path}"
    assert describe_missing(tmp_path, "/gone/1.jpg") == "no such file"


@pytest.mark.parametrize(
    ("name", "ending"), [("a/1", ".png"), ("a/1.jpg", ".png"), ("a/2", ".JPG"), ("a/2.png", ".JPG"), ("a/1.v2", ".png")]
)
def test_an_image_with_another_ending_is_named(tmp_path, name, ending):
    write_images(tmp_path, "a/1.png", "a/2.JPG", "a/1.v2.png")

    assert describe_missing(tmp_path, name) == f"no such file in {tmp_path}; there is one that ends in {ending}"


@pytest.mark.parametrize("current", ["", "labels", "else"])
def test_a_path_that_is_relative_to_another_folder_is_named(tmp_path, monkeypatch, current):
    write_images(tmp_path, "pics/1.jpg")
    for folder in ("labels/deep", "else"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / current)

    line = describe_missing(tmp_path / "labels/deep", "pics/1.jpg")

    assert line.endswith(f"deep; there is one in {tmp_path}, but paths are relative to the table's folder")


@pytest.mark.parametrize("name", ["C:/Users/me/pics/1.jpg", "/home/me/pics/1.jpg", "old/pics/1.jpg"])
def test_a_path_of_another_machine_is_recognised(tmp_path, name):
    write_images(tmp_path, "pics/1.jpg")

    assert describe_missing(tmp_path, name).endswith(f"; there is one without {name.removesuffix('pics/1.jpg')}")


@pytest.mark.parametrize(("name", "ending"), [("1.jpg", ""), ("1", " that ends in .jpg")])
def test_a_folder_beside_the_table_that_has_the_image_is_named(tmp_path, name, ending):
    write_images(tmp_path, "other/2.jpg", "train_images/1.jpg")

    line = describe_missing(tmp_path, name)

    assert f"; there is one in {tmp_path}/train_images{ending}, but paths are relative" in line


def test_an_image_in_lower_case_is_recognised(tmp_path):
    write_images(tmp_path, "pics/1.jpg")

    assert describe_missing(tmp_path, "Pics/1.JPG").endswith("; there is one in lower case")


def test_the_image_of_a_row_that_leads_nowhere_says_so_when_it_is_loaded(tmp_path):
    write_images(tmp_path, "1.png", "4.jpg")
    os.symlink("gone", tmp_path / "link.jpg")
    text = "path,label\n1.jpg,a\nlink.jpg,b\n4.jpg/x.jpg,b\nC:\\pics\\7.jpg,b\n"
    (tmp_path / "table.csv").write_text(text)
    dataset = read_dataset(tmp_path / "table.csv")

    def error(index):
        with pytest.raises(ImageError) as raised:
            dataset.image(index).load()
        return str(raised.value)

    assert [error(index) for index in range(4)] == [
        f"no such file in {tmp_path}; there is one that ends in .png",
        f"no such file in {tmp_path}",
        f"no such file in {tmp_path}",
        f"no such file in {tmp_path}",
    ]
    assert dataset.location(3) == f"{tmp_path}/C:/pics/7.jpg"


def test_what_helped_for_one_image_is_tried_first_for_the_others(tmp_path, monkeypatch):
    write_images(tmp_path, *(f"images/{number}.jpg" for number in range(100)))
    exists, looked = os.path.exists, []
    missing = MissingImages(str(tmp_path))
    monkeypatch.setattr(os.path, "exists", lambda path: looked.append(path) or exists(path))

    found = {missing.describe(str(number)) for number in range(100)}
    between = len(looked)
    lost = {missing.describe(f"gone/{number}.jpg") for number in range(1000)}

    assert found == {
        f"no such file in {tmp_path}; there is one in {tmp_path}/images that ends in .jpg, "
        "but paths are relative to the table's folder"
    }
    assert between < 300
    assert lost == {f"no such file in {tmp_path}"}
    assert len(looked) - between < 1000
