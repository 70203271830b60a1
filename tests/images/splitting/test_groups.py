"""Groups of images: a column, an array, a level of folders, or a pattern in the path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers import one_error_line
from permafrost.errors import OptionError
from permafrost.images.dataset import Dataset, read_dataset
from permafrost.images.options import ReadingOptions
from samples import write_images


def read(data: Path, split_by: str | None = None) -> Dataset:
    return read_dataset(data, ReadingOptions(split_by=split_by))


def groups_of(dataset: Dataset) -> dict[str, str | None]:
    assert dataset.groups is not None
    return dict(zip(dataset.names, dataset.groups, strict=True))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images of two classes and three patients, one image of none."""
    names = ["ill/ann/ann_1.png", "ill/ann/ann_2.png", "ill/bob/bob_1.png", "well/ann/ann_3.png", "well/cid/cid_1.png"]
    return write_images(tmp_path / "data", *names, "well/x.png")


def write_table(path: Path, text: str) -> Path:
    write_images(path.parent, *(f"{number}.png" for number in range(6)))
    path.write_text(text)
    return path


def test_the_own_folder_of_each_image_is_its_group(folder):
    dataset = read(folder, "folder-1")

    assert groups_of(dataset) == {
        "ill/ann/ann_1.png": "ann",
        "ill/ann/ann_2.png": "ann",
        "ill/bob/bob_1.png": "bob",
        "well/ann/ann_3.png": "ann",
        "well/cid/cid_1.png": "cid",
        "well/x.png": "well",
    }
    assert dataset.grouped_by == "folder-1"
    assert dataset.notes[-1] == "4 groups by folder-1"


def test_images_that_are_not_so_deep_stand_alone(tmp_path):
    data = write_images(tmp_path / "data", "a/s1/x/1.png", "a/s2/x/2.png", "b/s1/x/3.png", "b/4.png")

    dataset = read(data, "folder-2")

    found = groups_of(dataset)
    assert found == {"a/s1/x/1.png": "s1", "a/s2/x/2.png": "s2", "b/s1/x/3.png": "s1", "b/4.png": None}
    assert dataset.notes[-1] == "2 groups by folder-2 for 3 of 4 images; the others stand alone"


@pytest.mark.parametrize("split_by", [r"/([a-z]+)_\d", r"[a-z]+(?=_\d)", r"(?:ann|bob|cid)(?=_)"])
def test_a_pattern_finds_the_group_in_its_first_group_or_its_match(folder, split_by):
    assert groups_of(read(folder, split_by)) == {
        "ill/ann/ann_1.png": "ann",
        "ill/ann/ann_2.png": "ann",
        "ill/bob/bob_1.png": "bob",
        "well/ann/ann_3.png": "ann",
        "well/cid/cid_1.png": "cid",
        "well/x.png": None,
    }


def test_a_pattern_finds_names_in_any_unicode_form_and_names_that_are_not_utf_8(tmp_path):
    data = write_images(tmp_path / "data", b"a/caf\xc3\xa9-1.png", b"a/cafe\xcc\x81-2.png", b"b/\xff-3.png", b"b/4.png")

    found = groups_of(read(data, "^.*/([^/-]+)-"))

    assert sorted(map(ascii, found.values())) == sorted(map(ascii, ["caf\u00e9", "caf\u00e9", "\udcff", None]))


@pytest.mark.parametrize(
    ("split_by", "line"),
    [
        (
            "folder-3",
            "no such level of folders for --split-by; expected folder-1 or folder-2, found folder-3, and paths such as "
            "ill/ann/ann_1.png",
        ),
        (
            "folder-0",
            "no such level of folders for --split-by; expected folder-1 or folder-2, found folder-0, and paths such as "
            "ill/ann/ann_1.png",
        ),
        (
            "([a-z",
            "--split-by is not a regular expression; expected a column of the CSV, folder-1, folder-2, ..., or a "
            "regular expression, found ([a-z: unterminated character set at position 1",
        ),
        (
            "patient",
            "--split-by finds no group in the paths of the images; expected a regular expression that matches some, "
            "such as ^[^/]+/([^_]+), found patient, and paths such as ill/ann/ann_1.png",
        ),
        ("x*?", "--split-by finds no group in the paths of the images; "),
        ("^[^/]+", "--split-by ^[^/]+ would put each class into one split; expected several groups in a class"),
    ],
)
def test_what_finds_no_groups_is_refused_in_one_line(folder, split_by, line):
    with pytest.raises(OptionError) as caught:
        read(folder, split_by)

    assert one_error_line(caught.value).startswith(line)


def test_without_the_option_a_folder_has_no_groups(folder):
    dataset = read(folder)

    assert (dataset.groups, dataset.grouped_by) == (None, "")


def test_the_column_group_of_a_table_is_used_without_being_asked_for(tmp_path):
    table = write_table(tmp_path / "t.csv", "path,label,group\n0.png,a,p\n1.png,a,q\n2.png,b,p\n3.png,b,\n")

    dataset = read(table)

    assert dataset.groups == ("p", "q", "p", None)
    assert dataset.notes == ("2 groups by column group for 3 of 4 images; the others stand alone",)


def test_another_column_a_folder_or_a_pattern_can_group_a_table(tmp_path):
    table = write_table(
        tmp_path / "t.csv", "path,label,group,who\n0.png,a,p,u\n1.png,a,q,u\n2.png,b,p,v\n3.png,b,q,v\n"
    )
    write_images(tmp_path, "s/5.png")
    table.write_text(table.read_text() + "s/5.png,b,p,u\n")

    assert read(table, "who").groups == ("u", "u", "v", "v", "u")
    assert read(table, "who").grouped_by == "column who"
    assert read(table, "folder-1").groups == (None, None, None, None, "s")
    assert read(table, "^[01]").groups == ("0", "1", None, None, None)


def test_a_column_with_the_name_of_a_level_is_ambiguous(tmp_path):
    table = write_table(tmp_path / "t.csv", "path,label,folder-1\n0.png,a,p\n1.png,a,q\n2.png,b,p\n")

    with pytest.raises(OptionError, match=r"--split-by folder-1 is a column of .*t\.csv and a level of folders\. Give"):
        read(table, "folder-1")


def test_groups_that_are_the_classes_are_not_used_and_that_is_said(tmp_path):
    table = write_table(tmp_path / "t.csv", "path,label,group\n0.png,a,p\n1.png,a,p\n2.png,b,q\n")

    dataset = read(table)

    assert (dataset.groups, dataset.grouped_by) == (None, "")
    assert dataset.warnings == ("column group is not used to split: all images of a class are of one group",)


def test_the_array_groups_of_an_npz_is_used(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", X=pixels, y=[0, 0, 1, 1], groups=[7, 8, 7, 7])

    dataset = read(tmp_path / "a.npz")

    assert dataset.groups == ("7", "8", "7", "7")
    assert dataset.notes == ("2 groups by array groups",)
