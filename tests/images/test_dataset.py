"""What a dataset is: paths, labels, splits, class names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from permafrost.errors import DatasetError, ImageError, OptionError
from permafrost.images.dataset import path_of, read_dataset
from permafrost.images.decoding import array_digest, content_digest
from permafrost.images.sources import ArrayImage, FileImage
from permafrost.images.splits import SPLITS, assign_splits, content_position
from samples import CLASSES, encoded, texture, write_photos

IMAGE = encoded(texture("dots", 0, (8, 8)))


def touch(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(IMAGE)
    return root


# A folder


def test_a_folder_of_class_folders_is_listed_in_a_stable_order(photos):
    dataset = read_dataset(photos)

    assert dataset.class_names == CLASSES
    assert dataset.names == tuple(sorted(dataset.names))
    assert len(dataset) == 18
    assert [dataset.class_names[label] for label in dataset.labels] == [name.split("/")[0] for name in dataset.names]
    assert set(dataset.splits) == {None}
    assert dataset.skipped == ()
    assert dataset.name == "photos"
    assert dataset.image(0) == FileImage(str(photos / dataset.names[0]))


def test_dataset_twice_gives_the_same(photos):
    assert read_dataset(photos) == read_dataset(str(photos) + "/")


@pytest.mark.parametrize("training", ["train", "training", "Train"])
@pytest.mark.parametrize("validation", ["validation", "val", "valid", "VAL"])
@pytest.mark.parametrize("testing", ["test", "Testing"])
def test_split_folders_are_known_by_their_usual_names(tmp_path, training, validation, testing):
    names = [f"{split}/{kind}/1.jpg" for split in (training, validation, testing) for kind in "ab"]

    dataset = read_dataset(touch(tmp_path, *names))

    meaning = {training: "train", validation: "validation", testing: "test"}
    assert sorted(dataset.names) == sorted(names)
    assert list(dataset.splits) == [meaning[name.split("/")[0]] for name in dataset.names]
    assert dataset.class_names == ("a", "b")


def test_without_a_folder_to_train_on_test_is_a_class_like_others(tmp_path):
    dataset = read_dataset(touch(tmp_path, "test/1.jpg", "other/1.jpg"))

    assert dataset.class_names == ("other", "test")
    assert set(dataset.splits) == {None}


def test_images_below_a_class_folder_belong_to_it_however_deep(tmp_path):
    dataset = read_dataset(touch(tmp_path, "a/2020/may/1.jpg", "a/2.jpg", "b/3.jpg"))

    assert dataset.names == ("a/2.jpg", "a/2020/may/1.jpg", "b/3.jpg")
    assert dataset.labels == (0, 0, 1)


def test_a_class_without_images_is_no_class(tmp_path):
    (tmp_path / "empty").mkdir()

    dataset = read_dataset(touch(tmp_path, "a/1.jpg", "b/1.jpg", "texts/notes.txt"))

    assert dataset.class_names == ("a", "b")
    assert dict(dataset.skipped) == {
        "empty": "a class folder without images",
        "texts": "a class folder without images",
        "texts/notes.txt": "not an image by its name",
    }


def test_a_folder_called_like_a_image_is_a_folder(tmp_path):
    (tmp_path / "a" / "empty.jpg").mkdir(parents=True)

    dataset = read_dataset(touch(tmp_path, "a/full.jpg/1.jpg", "b/1.jpg"))

    assert dataset.names == ("a/full.jpg/1.jpg", "b/1.jpg")
    assert dataset.skipped == (("a/empty.jpg", "an empty folder"),)


def test_whatever_is_no_image_is_set_aside_with_a_reason(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.JPG", "a/notes.txt", "a/.DS_Store", ".git/x.jpg", "stray.jpg", "a/.cache/1.jpg")
    (tmp_path / "a" / "linked.jpg").symlink_to(tmp_path / "b")

    dataset = read_dataset(tmp_path)

    assert dataset.names == ("a/1.jpg", "b/1.JPG")
    assert dict(dataset.skipped) == {
        "a/notes.txt": "not an image by its name",
        "a/.DS_Store": "hidden",
        "a/.cache": "hidden",
        ".git": "hidden",
        "stray.jpg": "not in a class folder",
        "a/linked.jpg": "a link to a folder",
    }


def test_nothing_beside_split_folders_is_dropped_without_a_word(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "extra/1.jpg", "stray.jpg", ".hidden/1.jpg", "train/loose.jpg")

    dataset = read_dataset(tmp_path)

    assert dataset.names == ("train/a/1.jpg", "train/b/1.jpg")
    assert dict(dataset.skipped) == {
        "extra": "beside the split folders",
        "stray.jpg": "beside the split folders",
        ".hidden": "hidden",
        "train/loose.jpg": "not in a class folder",
    }


def test_links_that_lead_round_in_a_circle_are_not_followed(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
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
def test_any_bytes_in_a_name_come_back_byte_for_byte(tmp_path, names):
    shutil.rmtree(tmp_path)
    touch(tmp_path, *(b"a/" + name + b".jpg" for name in names), b"b/1.jpg")

    dataset = read_dataset(tmp_path)

    found = {os.fsencode(name) for name, label in zip(dataset.names, dataset.labels, strict=True) if label == 0}
    assert found == {b"a/" + name + b".jpg" for name in names}
    for index in range(len(dataset)):
        assert dataset.image(index).load().digest == content_digest(IMAGE)


def test_a_class_name_need_not_be_utf_8(tmp_path):
    dataset = read_dataset(touch(tmp_path, b"caf\xe9/1.jpg", b"b/1.jpg"))

    assert [os.fsencode(name) for name in dataset.class_names] == [b"b", b"caf\xe9"]


def test_a_folder_may_be_called_like_a_table(tmp_path):
    dataset = read_dataset(write_photos(tmp_path / "photos.csv", per_class=1))

    assert dataset.name == "photos.csv"
    assert dataset.image(0).load().digest


def test_a_loaded_image_is_decoded_at_full_size_or_resized(photos):
    loaded = read_dataset(photos).image(0).load()

    assert loaded.full_size().shape == (40, 48, 3)
    assert np.array_equal(loaded.pixels((40, 48)), loaded.full_size())
    assert loaded.pixels((7, 9)).shape == (7, 9, 3)


# A CSV


def write_csv(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding, "surrogateescape"))
    return path


def test_a_csv_gives_paths_relative_to_its_folder_labels_and_splits(tmp_path):
    touch(tmp_path, "x/1.jpg", "2.jpg", "3.jpg")
    text = f"path,label,split\nx/1.jpg,dog,train\n2.jpg,cat,val\n{tmp_path}/3.jpg,cat,\n"

    dataset = read_dataset(write_csv(tmp_path, text))

    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels == (1, 0, 0)
    assert dataset.splits == ("train", "validation", None)
    assert dataset.name == "table"
    for index in range(3):
        assert dataset.image(index).load().digest == content_digest(IMAGE)


def test_a_csv_needs_no_split_and_its_columns_may_stand_in_any_order_beside_others(tmp_path):
    dataset = read_dataset(write_csv(tmp_path, "note,label,path\nnice, dog ,1.jpg\n,cat,2.jpg\n"))

    assert dataset.names == ("1.jpg", "2.jpg")
    assert dataset.labels == (1, 0)
    assert dataset.splits == (None, None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_may_begin_with_a_byte_order_mark_and_name_files_in_any_bytes(tmp_path, encoding):
    dataset = read_dataset(write_csv(tmp_path, 'path,label\n"a\nb.jpg",a\ncaf\udce9.jpg,b\n', encoding))

    assert [os.fsencode(name) for name in dataset.names] == [b"a\nb.jpg", b"caf\xe9.jpg"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", r"columns missing in .*table\.csv; expected path,label and, if you like, split, found an empty file"),
        ("file,label\n", r"columns missing in .*; expected path,label .*, found file,label"),
        ("path,label\n1.jpg,a\n,b\n", r"no path in .*table\.csv, line 3\. Fill in the path or remove the line"),
        ("path,label\n1.jpg\n", r"no label in .*table\.csv, line 2\. Fill in the label or remove the line"),
        (
            "path,label,split\n1.jpg,a,dev\n",
            r"unknown split in .*, line 2; expected train, validation, test, found dev",
        ),
        ("path,label\n1.jpg,a\n2.jpg,a\n", r"only one class in .*; expected at least two, found a"),
        ("path,label\n", r"no images in .*table\.csv"),
        ("path,label\n1.jpg,Cat\n2.jpg,cat\n", r"two classes in .* upper and lower case; found Cat and cat"),
        ("path,label\n" + "x" * 200_000 + ",a\n", r"cannot read .*table\.csv, line 1; found field larger than"),
    ],
)
def test_a_wrong_csv_is_one_clear_line(tmp_path, text, line):
    with pytest.raises(DatasetError, match=line):
        read_dataset(write_csv(tmp_path, text))


def test_a_name_that_no_file_can_have_is_that_images_verdict(tmp_path):
    dataset = read_dataset(write_csv(tmp_path, "path,label\na\0b.jpg,a\n2.jpg,b\n"))

    with pytest.raises(ImageError, match="no file can have this name"):
        dataset.image(0).load()


# An npz

PIXELS = np.stack([texture(kind, seed, (8, 9)) for kind in CLASSES for seed in range(2)])


def write_npz(tmp_path, **arrays):
    np.savez(tmp_path / "arrays.npz", **arrays)
    return tmp_path / "arrays.npz"


def test_an_npz_gives_images_labels_and_splits(tmp_path):
    path = write_npz(tmp_path, X_train=PIXELS[:4], y_train=[3, 7, 3, 7], X_val=PIXELS[4:], y_val=[[7], [3]])

    dataset = read_dataset(path)

    assert dataset.names == ("X_train[0]", "X_train[1]", "X_train[2]", "X_train[3]", "X_val[0]", "X_val[1]")
    assert dataset.class_names == ("3", "7")
    assert dataset.labels == (0, 1, 0, 1, 1, 0)
    assert dataset.splits == ("train",) * 4 + ("validation",) * 2
    assert dataset.name == "arrays"
    assert isinstance(dataset.image(0), ArrayImage)
    loaded = dataset.image(4).load()
    assert loaded.digest == array_digest(PIXELS[4])
    assert np.array_equal(loaded.pixels((8, 9)), PIXELS[4])


def test_an_npz_without_splits_may_hold_grey_images_as_floats_and_names_as_labels(tmp_path):
    grey = PIXELS[:2, :, :, 0].astype(np.float32)

    dataset = read_dataset(write_npz(tmp_path, X=grey, y=np.array(["dog", "cat"])))

    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels == (1, 0)
    assert dataset.splits == (None, None)
    assert np.array_equal(dataset.image(0).load().pixels((8, 9))[:, :, 2], PIXELS[0, :, :, 0])


def test_numbers_are_sorted_as_numbers_and_called_by_class_names_where_there_are_some(tmp_path):
    path = write_npz(tmp_path, X=PIXELS[:3], y=[10, 9, 2])
    named = write_npz(tmp_path / "..", X=PIXELS[:2], y=[2, 0], class_names=["zebra", "-", "ant"])

    assert read_dataset(path).class_names == ("2", "9", "10")
    assert read_dataset(named).class_names == ("zebra", "ant")
    assert read_dataset(named).labels == (1, 0)


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({}, r"no images in .*; expected X_train and y_train, found none"),
        ({"images": PIXELS}, r"expected X_train and y_train, found images"),
        ({"X_train": PIXELS}, r"labels missing in .*; expected y_train beside X_train, found X_train"),
        (
            {"X_dev": PIXELS, "y_dev": range(6)},
            r"unknown split in .*; expected X_train, X_validation, X_test, found X_dev",
        ),
        ({"X": PIXELS, "y": range(5)}, r"labels of X in .*; expected 6 whole numbers or names"),
        ({"X": PIXELS, "y": np.eye(6, dtype=int)}, r"not one class an image; .* found int64 \(6, 6\)"),
        ({"X": PIXELS, "y": np.arange(6.0)}, r"not one class an image; .* found float64 \(6,\)"),
        (
            {"X": PIXELS, "y": ["a", "b", "", "a", "", "b"]},
            r"2 labels of X in .* are empty, the first is number 2; expec",
        ),
        ({"X": PIXELS[:2], "y": np.array([b"a", b""])}, r"1 labels of X in .* are empty, the first is number 1"),
        ({"X": np.zeros((3, 4)), "y": [0, 1, 1]}, r"holds no images; expected shape \(n, h, w, 3\), found \(3, 4\)"),
        ({"X": PIXELS, "y": [0] * 6}, r"only one class in .*; expected at least two, found 0"),
        ({"X": PIXELS[:0], "y": np.zeros(0, int)}, r"no images in .*arrays\.npz"),
        ({"X": PIXELS[:2], "y": [0, 3], "class_names": ["a", "b"]}, r"class_names in .* do not fit the labels"),
        ({"X": PIXELS[:2], "y": [0, -1], "class_names": ["a", "b"]}, r"class_names in .* do not fit the labels"),
        (
            {"X_train": PIXELS[:2], "y_train": [0, 1], "X_test": PIXELS[:2], "y_test": ["a", "b"]},
            r"numbers in one split and names in another",
        ),
        ({"X": PIXELS[:2], "y": np.array([{}, {}])}, r"cannot read .*allow_pickle.* Save it with numpy\.savez"),
    ],
)
def test_a_wrong_npz_is_one_clear_line(tmp_path, arrays, line):
    with pytest.raises(DatasetError, match=line):
        read_dataset(write_npz(tmp_path, **arrays))


@pytest.mark.parametrize("keep", [0, 100, 400])
def test_an_npz_cut_short_is_refused(tmp_path, keep):
    path = write_npz(tmp_path, X=PIXELS, y=range(6))
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(DatasetError, match=r"cannot read .*arrays\.npz"):
        read_dataset(path)


def test_an_npz_with_a_flipped_bit_is_refused(tmp_path):
    path = write_npz(tmp_path, X=PIXELS, y=range(6))
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)

    with pytest.raises(DatasetError, match=r"cannot read .*arrays\.npz; found Bad CRC-32"):
        read_dataset(path)


# What is no dataset


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ((), r"no images in .*; expected folders of images, one folder a class, found none"),
        (("1.jpg", "2.jpg"), r"no images in .*, found 2 other things"),
        (("a/1.jpg", "a/2.jpg"), r"only one class in .*; expected at least two, found a\. Put the images of each"),
        (("Cat/1.jpg", "cat/1.jpg"), r"upper and lower case; found Cat and cat\. Give both the same name"),
        (("caf\u00e9/1.jpg", "cafe\u0301/1.jpg"), r"two classes in "),
        (("train/a/1.jpg", "test/b/1.jpg", "test/B/1.jpg"), r"upper and lower case; found B and b"),
    ],
)
def test_a_folder_that_is_no_data_set_is_one_clear_line(tmp_path, names, line):
    with pytest.raises(DatasetError, match=line):
        read_dataset(touch(tmp_path, *names))


def test_a_data_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no such folder or file: .*gone\. Give a folder .*, a \.csv or an \.npz"):
        read_dataset(tmp_path / "gone")


def test_another_kind_of_file_is_no_data_set(tmp_path):
    touch(tmp_path, "1.jpg")

    with pytest.raises(DatasetError, match=r"not a dataset: .*; expected a folder, a \.csv or an \.npz"):
        read_dataset(tmp_path / "1.jpg")


# Splits

DIGESTS = st.binary(min_size=32, max_size=32)


@given(digests=st.lists(DIGESTS, min_size=1), others=st.lists(DIGESTS))
def test_a_images_split_stays_when_others_come_and_go(digests, others):
    alone = assign_splits(digests, [None] * len(digests))
    together = assign_splits(others + digests, [None] * (len(others) + len(digests)))

    assert together[len(others) :] == alone


@given(digest=DIGESTS, others=st.lists(DIGESTS))
def test_copies_of_one_image_share_a_split(digest, others):
    splits = assign_splits([digest, *others, digest], [None] * (len(others) + 2))

    assert splits[0] == splits[-1]


@given(digests=st.lists(DIGESTS), data=st.data())
def test_a_split_that_is_given_stays(digests, data):
    given_splits = [data.draw(st.sampled_from([*SPLITS, None])) for _ in digests]

    splits = assign_splits(digests, given_splits)

    assert all(wanted in (split, None) for wanted, split in zip(given_splits, splits, strict=True))
    assert set(splits) <= set(SPLITS)


@given(digest=DIGESTS, lower=st.floats(0, 0.4), more=st.floats(0, 0.4))
def test_a_image_tested_on_stays_so_when_the_share_grows(digest, lower, more):
    splits = [
        assign_splits([digest], [None], validation_fraction=0.1, test_fraction=share)[0]
        for share in (lower, lower + more)
    ]

    assert splits[0] != "test" or splits[1] == "test"


def test_shares_are_what_was_asked_for():
    digests = [content_digest(str(number).encode()) for number in range(4000)]

    splits = assign_splits(digests, [None] * 4000, validation_fraction=0.2, test_fraction=0.1)

    assert abs(splits.count("validation") / 4000 - 0.2) < 0.03
    assert abs(splits.count("test") / 4000 - 0.1) < 0.03


@pytest.mark.parametrize(("validation", "test"), [(1, 0), (0.5, 0.5), (-0.1, 0), (0, float("nan"))])
def test_shares_that_leave_nothing_to_train_on_are_refused(validation, test):
    with pytest.raises(OptionError, match=r"leave nothing to train on; expected each at least 0, together less than 1"):
        assign_splits([], [], validation_fraction=validation, test_fraction=test)


def test_splits_are_pinned():
    # A change here moves users' images between training and test.
    digests = [content_digest(name.encode()) for name in "abcdefgh"]

    splits = assign_splits(digests, [None] * 8, validation_fraction=0.3, test_fraction=0.3)

    assert splits == ["train", "test", "test", "test", "test", "test", "train", "train"]
    assert content_position(bytes(31) + b"\1") == 0
    assert content_position(b"\x80" + bytes(31)) == 0.5


def test_a_path_is_joined_to_the_folder_or_to_the_tables_folder():
    assert path_of("/data/photos", "a/1.jpg") == "/data/photos/a/1.jpg"
    assert path_of("/data/table.csv", "a/1.jpg") == "/data/a/1.jpg"
    assert path_of("/data/table.csv", "/else/1.jpg") == "/else/1.jpg"


def test_names_are_read_by_their_bytes_whatever_the_locale(tmp_path):
    touch(tmp_path, b"a/caf\xc3\xa9.jpg", b"b/1.jpg")
    code = "import os, sys\nfrom permafrost.images.dataset import read_dataset\n"
    code += "print([os.fsencode(name) for name in read_dataset(sys.argv[1]).names])"

    told = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, str(tmp_path)],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.strip() == str([b"a/caf\xc3\xa9.jpg", b"b/1.jpg"])


def test_a_class_called_train_is_a_class_where_it_holds_images_and_no_folders(tmp_path):
    write_photos(tmp_path / "vehicles", per_class=2, classes=("dots", "stripes"))
    (tmp_path / "vehicles" / "dots").rename(tmp_path / "vehicles" / "train")

    dataset = read_dataset(tmp_path / "vehicles")

    assert dataset.class_names == ("stripes", "train")
    assert set(dataset.splits) == {None}


def forged_npz(path, shape, *, held=b"", compression=zipfile.ZIP_STORED):
    """An npz whose image array claims a shape, and holds these bytes."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, claimed, dtype, data in (("X", shape, "|u1", held), ("y", (2,), "<i8", bytes(16))):
            with file.open(f"{name}.npy", "w") as part:
                header = {"descr": dtype, "fortran_order": False, "shape": claimed}
                np.lib.format.write_array_header_1_0(part, header)
                part.write(data)
    return path


def test_an_npz_that_claims_more_than_it_has_is_refused_before_memory_is_taken(tmp_path):
    path = forged_npz(tmp_path / "forged.npz", (2, 2**20, 2**20, 3), held=b"few")

    line = r"X\.npy in .*forged\.npz claims more than it has; expected 3 bytes, found 6,597,069,766,656"
    with pytest.raises(DatasetError, match=line):
        read_dataset(path)


def test_an_npz_larger_than_memory_is_refused_however_small_its_file(tmp_path, monkeypatch):
    # Zeros, a thousand times smaller when compressed.
    path = forged_npz(
        tmp_path / "zeros.npz", (2, 1000, 500, 3), held=bytes(3 * 10**6), compression=zipfile.ZIP_DEFLATED
    )
    monkeypatch.setattr("permafrost.images.dataset.available_memory", lambda: 2_000_000)

    with pytest.raises(DatasetError, match=r"X\.npy in .* does not fit into memory; .* Save the images as files"):
        read_dataset(path)
