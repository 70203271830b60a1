"""Datasets in tables: their text, their rows and what they say of each image."""

from __future__ import annotations

import csv
import os
import unicodedata

import pytest

from permafrost.errors import DatasetError, ImageError, OptionError
from permafrost.images.dataset import read_dataset
from permafrost.images.decoding import content_digest
from permafrost.images.options import ReadingOptions
from samples import SMALL_IMAGE, write_images

ROWS = "path,label,split\nx/1.jpg,dog,train\n2.jpg,cat,val\n3.jpg,cat,\n"


def write_table(folder, text, name="table.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding, "surrogateescape"))
    return path


def read(folder, text, name="table.csv", encoding="utf-8", **options):
    return read_dataset(write_table(folder, text, name, encoding), ReadingOptions(**options))


def test_a_table_gives_paths_relative_to_its_folder_labels_and_splits(tmp_path):
    write_images(tmp_path, "x/1.jpg", "2.jpg", "3.jpg")
    text = f"path,label,split\nx/1.jpg,dog,train\n2.jpg,cat,val\n{tmp_path}/3.jpg,cat,\n"

    dataset = read(tmp_path, text)

    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels == (1, 0, 0)
    assert dataset.splits == ("train", "validation", None)
    assert dataset.groups is None
    assert dataset.name == "table"
    assert dataset.notes == dataset.warnings == ()
    for index in range(3):
        assert dataset.image(index).load().digest == content_digest(SMALL_IMAGE)


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_encoding_and_the_line_ends_of_a_table_do_not_matter(tmp_path, encoding, end):
    rows = ROWS.replace("dog", "Žába 🐸").replace("\n", end)

    dataset = read(tmp_path, rows, encoding=encoding)

    assert dataset.names == ("x/1.jpg", "2.jpg", "3.jpg")
    assert dataset.class_names == ("cat", "Žába 🐸")
    assert dataset.splits == ("train", "validation", None)


@pytest.mark.parametrize("mark", [b"\xfe\xff", b"\0\0\xfe\xff"])
def test_a_byte_order_mark_may_say_that_the_high_byte_comes_first(tmp_path, mark):
    encoding = "utf-16-be" if len(mark) == 2 else "utf-32-be"

    assert read(tmp_path, mark + ROWS.encode(encoding)).class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["table.csv", "TABLE.CSV", "table.tsv", "Table.Tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_with_which_the_header_has_a_path_and_a_label(tmp_path, name, delimiter):
    dataset = read(tmp_path, ROWS.replace(",", delimiter), name)

    assert dataset.names == ("x/1.jpg", "2.jpg", "3.jpg")
    assert dataset.splits == ("train", "validation", None)


@pytest.mark.parametrize("declared", ["sep=;", "SEP=;", '"sep=;"', "sep=^"])
def test_a_first_line_for_spreadsheets_declares_the_delimiter(tmp_path, declared):
    text = f"{declared}\r\n" + ROWS.replace(",", declared.strip('"')[-1]).replace("\n", "\r\n")

    assert read(tmp_path, text).names == ("x/1.jpg", "2.jpg", "3.jpg")
    with pytest.raises(DatasetError, match=r"no path in .*, line 6"):
        read(tmp_path, text + ROWS.splitlines()[2][5:].replace(",", declared.strip('"')[-1]) + "\r\n")


def test_quoted_fields_may_hold_delimiters_quotes_and_line_ends(tmp_path):
    dataset = read(tmp_path, 'path,label\n"a, ""b"".jpg","x; ""y"""\n"c\nd.jpg",z\n')

    assert dataset.names == ('a, "b".jpg', "c\nd.jpg")
    assert dataset.class_names == ('x; "y"', "z")


def test_blanks_before_a_quote_are_not_part_of_the_field(tmp_path):
    dataset = read(tmp_path, '"path", "label"\n"1.jpg", "dog, brown"\n"2.jpg",  "cat"\n')

    assert dataset.names == ("1.jpg", "2.jpg")
    assert dataset.class_names == ("cat", "dog, brown")


def test_columns_may_be_in_any_order_and_others_do_not_matter(tmp_path):
    dataset = read(tmp_path, ",note,Label , PATH,,\n0,nice, dog ,1.jpg,,\n1,,cat\t, 2.jpg,,\n")

    assert dataset.names == ("1.jpg", "2.jpg")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels == (1, 0)
    assert dataset.splits == (None, None)


def test_invisible_characters_around_a_field_are_no_part_of_it(tmp_path):
    dataset = read(
        tmp_path, "\ufeff\ufeffpath,label\u200b\n1.jpg\u200b,a\n2.jpg,\ufeffa \u200e\n\u200b,\n3.jpg,👩\u200d🚀\n"
    )

    assert dataset.names == ("1.jpg", "2.jpg", "3.jpg")
    assert dataset.class_names == ("a", "👩\u200d🚀")


def test_rows_of_blanks_do_not_count_and_short_rows_lack_what_is_optional(tmp_path):
    dataset = read(tmp_path, "\n , ,\npath,label,split\n\n1.jpg,a\n,,\n  \n2.jpg,b,test\n;\n".replace(";", ",,,,"))

    assert dataset.names == ("1.jpg", "2.jpg")
    assert dataset.splits == (None, "test")


def test_names_of_files_may_be_any_bytes_of_an_existing_file(tmp_path):
    write_images(tmp_path, b"caf\xe9.jpg")

    dataset = read(tmp_path, 'path,label\n"a\nb.jpg",a\ncaf\udce9.jpg,b\n')

    assert [os.fsencode(name) for name in dataset.names] == [b"a\nb.jpg", b"caf\xe9.jpg"]
    assert dataset.image(1).load().digest


@pytest.mark.parametrize(
    "exists", [" 1.jpg", "1.jpg ", "a\\1.jpg", unicodedata.normalize("NFD", "é.jpg"), "~", "é .jpg"]
)
def test_a_path_that_exists_as_it_is_written_is_taken(tmp_path, exists):
    write_images(tmp_path, exists, "1.jpg", "a/1.jpg", "é.jpg")

    assert read(tmp_path, f"path,label\n{exists},a\n2.jpg,b\n").names == (exists, "2.jpg")


@pytest.mark.parametrize(
    ("written", "exists"),
    [
        (" a/1.jpg\u00a0", "a/1.jpg"),
        ("a\\1.jpg", "a/1.jpg"),
        (".\\a\\1.jpg ", "./a/1.jpg"),
        ("é\\1.jpg", unicodedata.normalize("NFD", "é/1.jpg")),
        (unicodedata.normalize("NFD", "é.jpg"), "é.jpg"),
    ],
)
def test_a_path_is_tried_without_blanks_with_slashes_and_in_both_unicode_forms(tmp_path, written, exists):
    write_images(tmp_path, exists)

    dataset = read(tmp_path, f"path,label\n{written},a\n2.jpg,b\n")

    assert dataset.names == (exists, "2.jpg")
    assert dataset.image(0).load().digest


def test_a_path_may_start_at_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(write_images(tmp_path / "home", "1.jpg")))

    assert read(tmp_path, "path,label\n~/1.jpg,a\n2.jpg,b\n").names == (f"{tmp_path}/home/1.jpg", "2.jpg")


def test_an_impossible_file_name_is_an_error_of_its_image_only(tmp_path):
    dataset = read(tmp_path, "path,label\na\0b.jpg,a\n2.jpg,b\n")

    with pytest.raises(ImageError, match="no file can have this name"):
        dataset.image(0).load()


def test_what_is_only_at_a_url_is_skipped_with_the_reason(tmp_path):
    dataset = read(tmp_path, "path,label\nhttps://example.org/1.jpg,a\n2.jpg,a\nS3://x/3.jpg,b\n4.jpg,b\n")

    assert dataset.names == ("2.jpg", "4.jpg")
    assert dataset.skipped == (
        ("https://example.org/1.jpg", "a URL, and only files are read"),
        ("S3://x/3.jpg", "a URL, and only files are read"),
    )


def test_a_row_that_repeats_another_is_skipped(tmp_path):
    text = f"path,label,split\n1.jpg,a,train\n2.jpg,b,\n./1.jpg,a,Train\n.//2.jpg,b,\n{tmp_path}/2.jpg,b,\n"

    dataset = read(tmp_path, text)

    assert dataset.names == ("1.jpg", "2.jpg")
    assert dataset.skipped == tuple((name, "listed more than once") for name in ("1.jpg", "2.jpg", "2.jpg"))


def test_tables_that_were_joined_repeat_their_header(tmp_path):
    dataset = read(tmp_path, "path,label,split\n1.jpg,a,train\npath, label,split\n2.jpg,b,test\npath,b,\n")

    assert dataset.names == ("1.jpg", "2.jpg", "path")
    assert dataset.skipped == (("path", "the header again"),)


def test_a_warning_names_a_class_that_may_be_missing_labels(tmp_path):
    dataset = read(tmp_path, "path,label\n1.jpg,a\n2.jpg,nan\n3.jpg,nan\n4.jpg,none\n")

    assert dataset.warnings == ("nan is a class: leave out the rows of images without a label",)


@pytest.mark.parametrize(
    ("labels", "kind"), [(("train", "test"), "splits: test, train"), (("2019", "2020"), "years: 2019, 2020")]
)
def test_a_warning_says_that_labels_look_like_something_else(tmp_path, labels, kind):
    dataset = read(tmp_path, "path,label\n" + "".join(f"{i}.jpg,{labels[i % 2]}\n" for i in range(10)))

    assert dataset.warnings == (f"the labels look like {kind}",)


def test_groups_come_from_the_column_group(tmp_path):
    dataset = read(tmp_path, "path,label,Groups\n1.jpg,a, one \n2.jpg,b,\n3.jpg,b,one\n")

    assert dataset.groups == ("one", None, "one")
    assert dataset.notes == ("1 group by column Groups for 2 of 3 images; the others stand alone",)


@pytest.mark.parametrize("option", ["Patient ID", "patient id", "patient_id"])
def test_groups_come_from_the_column_that_is_asked_for(tmp_path, option):
    dataset = read(tmp_path, "path,label,group,Patient ID\n1.jpg,a,g,p1\n2.jpg,b,g,p2\n", split_by=option)

    assert dataset.groups == ("p1", "p2")


@pytest.mark.parametrize("option", ["folder-1", r"^(\w+)/", ".*"])
def test_groups_that_are_asked_for_in_paths_are_not_those_of_a_column(tmp_path, option):
    dataset = read(tmp_path, ",path,label,group\n0,x/1.jpg,a,g\n1,y/2.jpg,b,g\n", split_by=option)

    assert dataset.groups == {".*": ("x/1.jpg", "y/2.jpg")}.get(option, ("x", "y"))


def test_a_word_that_no_column_has_for_a_name_cannot_give_groups(tmp_path):
    with pytest.raises(OptionError, match=r"--split-by in .*; expected one of path, label, who, folder-1.*found patie"):
        read(tmp_path, "path,label,who\n1.jpg,a,\n", split_by="patient")
    with pytest.raises(OptionError, match="--split-by LABEL would put each class into one split"):
        read(tmp_path, "path,label,who\n1.jpg,a,\n", split_by="LABEL")


def test_labels_are_compared_in_one_unicode_form(tmp_path):
    dataset = read(tmp_path, f"path,label\n1.jpg,{unicodedata.normalize('NFD', 'café')}\n2.jpg, café\n3.jpg,thé\n")

    assert dataset.class_names == ("café", "thé")
    assert dataset.labels == (0, 0, 1)


def test_labels_that_are_whole_numbers_lose_their_point(tmp_path):
    dataset = read(tmp_path, "path,label\n1.jpg,0.0\n2.jpg,1.0\n3.jpg,10\n4.jpg,1.\n5.jpg,1\n5.jpg,1.0\n")

    assert dataset.class_names == ("0", "1", "10")
    assert dataset.labels == (0, 1, 2, 1, 1)
    assert dataset.notes == ("labels are whole numbers: 0.0 is read as 0",)
    assert len(dataset.skipped) == 1


def test_names_that_only_look_like_numbers_stay_as_they_are(tmp_path):
    dataset = read(tmp_path, "path,label\n1.jpg,1.0\n2.jpg,v1.5\n3.jpg,001\n")

    assert dataset.class_names == ("001", "1.0", "v1.5")
    assert dataset.notes == ()


def test_numbers_to_predict_are_refused_where_a_model_is_to_be_fitted(tmp_path):
    rows = "".join(f"{i}.jpg,{i}.5\n" for i in range(20))
    path = write_table(tmp_path, f"path,label\n{rows}")

    with pytest.raises(DatasetError, match=r"labels in .*table\.csv are numbers to predict, not classes"):
        read_dataset(path)
    assert len(read_dataset(path, min_classes=1)) == 20


def test_a_warning_says_that_most_classes_have_a_single_image(tmp_path):
    rows = "".join(f"{i}.jpg,who-{i}\n" for i in range(20))

    assert read(tmp_path, f"path,label\n{rows}").warnings == ("20 of 20 classes have a single image, such as who-0",)


def test_a_column_called_dataset_may_give_the_split_or_not(tmp_path):
    given = read(tmp_path, "path,label,data set\n1.jpg,a,Train\n2.jpg,b,TEST\n3.jpg,b,\n")
    other = read(tmp_path, "path,label,dataset\n1.jpg,a,ISIC\n2.jpg,b,\n")

    assert given.splits == ("train", "test", None)
    assert given.notes == ("read the split from the column data set",)
    assert other.splits == (None, None)
    assert other.notes[-1] == "the column dataset does not give splits: ISIC"


INVALID = [
    ("", r"table\.csv is empty; expected a first line path,label, and a line for each image"),
    ("\n \n", r"table\.csv is empty"),
    ("path,label\n", r"no images in .*table\.csv; expected a line for each image, found none"),
    ("path,label\n,\n", r"no images in .*table\.csv; expected a line for each image, found none"),
    (
        "path,label\nhttp://x/1.jpg,a\nhttp://x/2.jpg,b\n",
        r"no images in .*, found 2 other entries, all of them: a URL, and only files are read, such as http://x/1\.jpg",
    ),
    ("path,label\n1.jpg,a\n,b\n", r"no path in .*table\.csv, line 3\. Fill in the path or remove the line"),
    ("path,label\n1.jpg\n", r"no label in .*table\.csv, line 2\. Fill in the label or remove the line"),
    ('path,label\n"a\nb.jpg",a\n2.jpg, \n', r"no label in .*, line 4\. Fill"),
    ("path,label\n1.jpg,a\n2.jpg,b,c\n", r"too many fields in .*, line 3; expected 2, found 3: 2\.jpg, b, c\. Put quo"),
    (
        "path,label,split\n1.jpg,a,query\n",
        r"unknown split in .*, line 2; expected train, validation, test, found query",
    ),
    ("path,label,set\n1.jpg,a,0\n2.jpg,b,1\n", r"unknown split in .*, line 2; .*found 0"),
    ("path,label,dataset\n1.jpg,a,train\n2.jpg,b,ISIC\n", r"unknown split in .*, line 3; .*found ISIC"),
    ("path,label\n1.jpg,a\n2.jpg,a\n", r"only one class in .*; expected at least two, found a"),
    ("path,label\n" + "x" * 200_000 + ",a\n", r"cannot read .*table\.csv, line 2; found field larger than"),
    ("x" * 200_000 + "\n1.jpg,a\n", r"cannot read .*table\.csv, line 1; found field larger than"),
    ('path,label\n1.jpg,"a\n2.jpg,b\n3.jpg,c\n', r"cannot read .*, line 2; found unexpected end .*\. Close each quote"),
    ('path,label\n1.jpg,a\n2.jpg,"b\n3.jpg,"c"\n', r"cannot read .*, line 3; found ',' expected after '\"'"),
    ('path,label\n1.jpg,"a\n' + "2.jpg,b\n" * 20_000, r"cannot read .*, line 2; found field larger .*\. Close each"),
    (b"path,label\n1.jpg,a\n2.jpg,caf\xe9\n", r"csv, line 3, is not UTF-8; found b'caf\\xe9'\. Save it as CSV UTF-8"),
    (
        b"path,label\n1.jpg,a\ncaf\xe9.jpg,b\n",
        r"csv, line 3, is not UTF-8, and there is no file .*found b'caf\\xe9\.j",
    ),
    (b"path,label,split\n1.jpg,a,\xe9t\xe9\n", r"csv, line 2, is not UTF-8; found b'\\xe9t\\xe9'\. Save"),
    (b"path,label,group\n1.jpg,a,\xe9\n", r"csv, line 2, is not UTF-8; found b'\\xe9'"),
    (b"path,label,caf\xe9\n1.jpg,a,\n", r"a column of .* is not UTF-8; found b'caf\\xe9'\. Save it as CSV UTF-8"),
    (b"path,label\n1.jpg,a\n2.jpg,b\0c\n", r"csv, line 3, is not UTF-8; found b'b\\x00c'"),
    (b"PK\x03\x04\x14\0\6\0", r"table\.csv is not text but a workbook or an archive\. Save it as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", r"table\.csv is not text but a workbook\. Save"),
    (b"\x1f\x8b\x08\0", r"table\.csv is not text but compressed\. Save"),
    ("path,label\n1.jpg,a\n".encode("utf-16")[:-1], r"cannot read .* as UTF-16.*; found truncated data\. Save it as"),
    (b"\xff\xfep\0,\0" + b"\0\xd8a\0", r"cannot read .* as UTF-16.*; found illegal UTF-16 surrogate"),
    (
        "path,label\n1.jpg,apple\n2.jpg,b\n1.jpg,ripe\n",
        r"two rows of .* give 1\.jpg another label; expected one label per image, "
        r"found apple in line 2, ripe in line 4\. Remove one of them, or name each combination as a class",
    ),
    (
        "path,label,split\n1.jpg,a,train\n./1.jpg,a,\n",
        r"give 1\.jpg another split; .* found train in line 2, none in l",
    ),
    ("path,label,group\n1.jpg,a,x\n1.jpg,a,y\n", r"give 1\.jpg another group; .*, found x in line 2, y in line 3\. Re"),
]


@pytest.mark.parametrize(("text", "line"), INVALID, ids=range(len(INVALID)))
def test_an_invalid_table_is_one_clear_error(tmp_path, text, line):
    with pytest.raises(DatasetError, match=line):
        read(tmp_path, text)


def test_what_is_not_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")

    with pytest.raises(DatasetError, match=r"pipe\.csv is not a regular file"):
        read_dataset(tmp_path / "pipe.csv")


def test_an_error_shows_the_start_of_what_is_long(tmp_path):
    for text in ("x" * 100_000, "path,label\n1.jpg,b," + "c" * 100_000, b"path,label\n1.jpg,\xe9" + b"c" * 100_000):
        with pytest.raises(DatasetError) as raised:
            read(tmp_path, text)
        assert len(str(raised.value)) < 400


def test_a_table_as_pandas_writes_it_is_read(tmp_path):
    with open(tmp_path / "frame.csv", "w", newline="") as file:
        csv.writer(file).writerows([["", "filename", "class"], [0, "1.jpg", "1.0"], [1, "2.jpg", "0.0"]])

    dataset = read_dataset(tmp_path / "frame.csv")

    assert dataset.class_names == ("0", "1")
    assert dataset.notes[0] == "read the path from the column filename, the label from the column class"
