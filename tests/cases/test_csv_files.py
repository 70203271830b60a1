"""Tables as people have them are read right, or refused in one line that says what was tried.

Public bug reports: keras-team/keras-preprocessing#92 and #164, MLWIC2#4, keras-team/keras#15440, pytorch/vision#1716.
"""

from __future__ import annotations

import random

import pytest

import permafrost as pf
from permafrost.errors import DatasetError
from permafrost.images.dataset import read_dataset
from samples import write_images

ROWS = [(f"pics/{kind}/{number:03}.png", kind) for kind in ("apple", "berry") for number in range(10)]


@pytest.fixture
def write(tmp_path):
    """Write images and a table of them, or of other rows."""
    write_images(tmp_path, *(name for name, _ in ROWS))

    def written(name, rows, header=("path", "label"), separator=",", encoding="utf-8"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        lines = [separator.join(row) for row in [header, *rows]]
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return path

    return written


def of_fruit(dataset):
    """Return whether a dataset is that of `ROWS`, and its images can be read."""
    named = [(name, dataset.class_names[label]) for name, label in zip(dataset.names, dataset.labels, strict=True)]
    return named == ROWS and all(dataset.image(index).load().digest for index in range(len(dataset)))


def test_backslashes_in_paths_are_tried_as_slashes(write):
    assert of_fruit(read_dataset(write("windows.csv", [(path.replace("/", "\\"), kind) for path, kind in ROWS])))


def test_blanks_around_column_names_paths_and_labels_do_not_matter(write):
    rows = [(path + " ", " " + kind) for path, kind in ROWS]

    assert of_fruit(read_dataset(write("spaces.csv", rows, header=("path", " label"))))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_table_may_separate_its_fields_as_spreadsheets_do(write, separator):
    assert of_fruit(read_dataset(write("semicolon.csv", ROWS, separator=separator)))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_table_may_be_in_the_encodings_of_spreadsheets(write, encoding):
    assert of_fruit(read_dataset(write("utf16.csv", ROWS, encoding=encoding)))


@pytest.mark.parametrize("name", ["UPPER.CSV", "upper.Csv", "table.tsv"])
def test_the_ending_of_a_table_may_be_in_any_case(write, name):
    assert of_fruit(read_dataset(write(name, ROWS)))


@pytest.mark.parametrize("header", [("filename", "class"), ("file", "label"), ("image", "category")])
def test_columns_may_be_called_as_people_call_them(write, header):
    dataset = read_dataset(write("other.csv", ROWS, header=header))

    assert of_fruit(dataset)
    assert header[0] in dataset.notes[0]


def test_where_images_were_looked_for_is_said_if_none_is_there(write, tmp_path, tiny_base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = write("labels/list.csv", ROWS)

    with pytest.raises(DatasetError) as raised:
        pf.extract(table, base=str(tiny_base))

    assert str(raised.value) == (
        f"none of the 20 images in {table} can be read; found {tmp_path}/labels/pics/apple/000.png: no such file in "
        f"{tmp_path}/labels; there is one in {tmp_path}, but paths are relative to the table's folder"
    )


def test_urls_are_refused_because_only_files_are_read(write):
    table = write("url.csv", [(f"https://example.org/{path}", kind) for path, kind in ROWS])

    with pytest.raises(DatasetError, match=r"no images in .*20 other entries, all of them: a URL, and only files are"):
        read_dataset(table)


def test_numbers_to_predict_are_recognised_and_refused(write):
    numbers = random.Random(0)
    table = write("regression.csv", [(path, f"{numbers.uniform(0, 100):.3f}") for path, _ in ROWS])

    with pytest.raises(DatasetError, match=r"labels in .* are numbers to predict, not classes; .*20 different numbers"):
        read_dataset(table)


def test_an_image_with_two_labels_is_refused_with_both_lines(write):
    table = write("multilabel.csv", [*ROWS, *((path, "ripe") for path, _ in ROWS[::3])])

    with pytest.raises(DatasetError, match=r"give pics/apple/000\.png another label; .*apple in line 2, ripe in line"):
        read_dataset(table)


def test_whole_numbers_with_a_point_are_classes(write):
    dataset = read_dataset(write("floats.csv", [(path, {"apple": "0.0", "berry": "1.0"}[kind]) for path, kind in ROWS]))

    assert dataset.class_names == ("0", "1")
    assert dataset.labels == (0,) * 10 + (1,) * 10


def test_upper_and_lower_case_letters_are_two_classes_in_a_table(write):
    dataset = read_dataset(write("letters.csv", [(path, {"apple": "a", "berry": "A"}[kind]) for path, kind in ROWS]))

    assert dataset.class_names == ("A", "a")
    assert dataset.labels == (1,) * 10 + (0,) * 10
