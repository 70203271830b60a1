"""The columns of tables are recognised by the names that people give them."""

from __future__ import annotations

import pytest

from permafrost.errors import DatasetError
from permafrost.images.tables.columns import find_columns

PAIRS = [
    "path,label",
    "filename,class",
    "file,label",
    "image,category",
    "filepath,label",
    "File Name,Class Name",
    "file_name,class_name",
    "image_path,target",
    "imagePath,groundTruth",
    "img,label",
    "image_id,label",
    "id,label",
    "id_code,breed",
    "image_url,tag",
]


@pytest.mark.parametrize("header", [pair for pair in PAIRS if "id_code" not in pair])
def test_a_path_and_a_label_may_be_called_as_people_call_them(header):
    columns = find_columns("a.csv", header.upper().split(","), None)

    assert (columns.path, columns.label, columns.split, columns.group) == (0, 1, None, None)
    assert bool(columns.notes) == (header != "path,label")


@pytest.mark.parametrize(
    ("header", "path", "label"),
    [
        ("label,class,path,filename", "path", "label"),
        ("filename,class,label", "filename", "label"),
        ("id,class_id,class_name,file_name", "file_name", "class_name"),
        ("class id,filepaths,labels,data set,scientific name", "filepaths", "labels"),
        ("image_id,path,species,category", "path", "category"),
        ("id,breed", "id", "breed"),
        ("filename,width,height,class,xmin", "filename", "class"),
    ],
)
def test_of_several_names_the_clearest_is_taken(header, path, label):
    columns = find_columns("a.csv", header.split(","), None)

    assert (columns.names[columns.path], columns.names[columns.label]) == (path, label)


@pytest.mark.parametrize("name", ["split", "Split", "set", "subset", "Partition", "Usage", "splits", "data_split"])
def test_the_split_may_be_called_as_people_call_it(name):
    columns = find_columns("a.csv", ["path", name, "label"], None)

    assert columns.split == 1
    assert columns.split_certain


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (
            "filename,filepath,label",
            r"several columns of a\.csv may be the path; found filename, filepath\. Call the ri",
        ),
        (
            "path,class,category",
            r"may be the label; found class, category\. Call the right one label, or remove the oth",
        ),
        ("path,label,label", r"may be the label; found label, label"),
        ("path,label,Label ", r"may be the label; found label, Label"),
        ("path,label,set,subset", r"may be the split; found set, subset"),
        ("path,label,group,groups", r"may be the group; found group, groups"),
        (
            "path,colour",
            r"no column for the label in a\.csv; expected path, label .*, found path, colour\. Call the col",
        ),
        ("label,where", r"no column for the path in a\.csv; .*, found label, where\. Call the column of the path path"),
        ("path label", r"no column for the path in a\.csv; .*, found path label"),
        ("photos/1.jpg,dog", r"no header in a\.csv; found photos/1\.jpg, dog\. Put a first line path,label before it"),
        ("1.PNG,dog,train", r"no header in a\.csv; found 1\.PNG"),
        (",".join(map(str, range(40))), r"found 0, 1, .*, 19 and 20 more"),
    ],
)
def test_columns_that_are_missing_or_may_be_two_things_are_refused(header, line):
    with pytest.raises(DatasetError, match=line):
        find_columns("a.csv", header.split(","), None)


@pytest.mark.parametrize("name", ["is_valid", "isTest", "train", "is-train"])
def test_a_warning_names_a_column_of_yes_and_no_that_may_give_splits(name):
    (line,) = find_columns("a.csv", ["path", "label", name, "island", "is_old"], None).warnings

    assert line == f"the column {name} is not read; a column split with train, validation, test gives splits"
    assert find_columns("a.csv", ["path", "label", name, "split"], None).warnings == []


def test_two_columns_of_one_name_that_nothing_needs_do_not_matter():
    assert find_columns("a.csv", ["path", "label", "note", "note"], None).label == 1


def test_a_column_of_two_names_cannot_be_asked_for():
    with pytest.raises(DatasetError, match="may be the note; found Note, NOTE"):
        find_columns("a.csv", ["path", "label", "Note", "NOTE"], "note")
