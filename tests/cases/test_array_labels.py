"""Labels and keys of arrays as people save them are taken, or refused for the true reason with a remedy that works."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from permafrost.errors import DatasetError, OptionError
from permafrost.images.dataset import read_dataset
from permafrost.images.options import ReadingOptions
from samples import CLASSES, texture

KINDS = np.arange(12) % 3
IMAGES = np.stack([texture(CLASSES[kind], seed, (8, 9)) for seed, kind in enumerate(KINDS)])
NAMES = np.array(CLASSES)[KINDS]
PATIENTS = np.arange(12) // 4


def read(tmp_path, options=None, **arrays):
    np.savez(tmp_path / "arrays.npz", **arrays)
    return read_dataset(tmp_path / "arrays.npz", *([options] if options else []))


def test_labels_of_python_objects_are_refused_with_the_true_reason_and_the_remedy_works(tmp_path):
    with pytest.raises(
        DatasetError, match=r"y in .* holds Python objects, which only pickle can read; .* y\.astype\(str\)"
    ):
        read(tmp_path, X=IMAGES, y=NAMES.astype(object))

    assert read(tmp_path, X=IMAGES, y=NAMES.astype(object).astype(str)).class_names == CLASSES


def test_images_of_python_objects_are_refused_with_a_remedy_that_works(tmp_path):
    ragged = np.empty(12, object)
    ragged[:] = [image[: 4 + number % 2] for number, image in enumerate(IMAGES)]

    with pytest.raises(DatasetError, match=r"X in .* holds Python objects, .* images of several sizes as files"):
        read(tmp_path, X=ragged, y=NAMES)
    with pytest.raises(DatasetError, match=r"X in .* holds Python objects, .* Save X\.astype\(float\)"):
        read(tmp_path, X=IMAGES.astype(object), y=NAMES)
    assert np.array_equal(read(tmp_path, X=IMAGES.astype(object).astype(float), y=NAMES).arrays, IMAGES)


def test_class_names_of_python_objects_are_refused_and_other_objects_are_not_looked_at(tmp_path):
    with pytest.raises(DatasetError, match=r"class_names in .* Save class_names\.astype\(str\)"):
        read(tmp_path, X=IMAGES, y=KINDS, class_names=np.array(CLASSES, object))

    dataset = read(tmp_path, X=IMAGES, y=KINDS, history=np.array([{"loss": 1}], object))
    assert dataset.skipped == (("history", "neither images nor their labels"),)
    assert read(tmp_path, X=IMAGES, y=KINDS, classes=np.arange(3)).class_names == ("0", "1", "2")
    assert read(tmp_path, X=IMAGES, y=KINDS, classes=CLASSES).class_names == CLASSES


@pytest.mark.parametrize(
    ("images", "labels", "test_images", "test_labels"),
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_tr", "Y_tr", "X_te", "Y_te"),
        ("trainX", "trainY", "testX", "testY"),
        ("train/x", "train/y", "test/x", "test/y"),
        ("Xtrain", "ytrain", "Xtest", "ytest"),
        ("images_train", "targets_train", "images_test", "targets_test"),
        ("training_data", "training_target", "testing_data", "testing_target"),
    ],
)
def test_keys_in_the_spellings_that_people_use_are_taken(tmp_path, images, labels, test_images, test_labels):
    dataset = read(tmp_path, **{images: IMAGES, labels: KINDS, test_images: IMAGES[:3], test_labels: KINDS[:3]})

    assert dataset.splits == ("train",) * 12 + ("test",) * 3
    assert dataset.labels == (*KINDS, *KINDS[:3])


@pytest.mark.parametrize(
    ("images", "labels"), [("X", "y"), ("images", "labels"), ("data", "target"), ("IMAGES", "Label")]
)
def test_keys_without_a_split_leave_it_open(tmp_path, images, labels):
    dataset = read(tmp_path, **{images: IMAGES, labels: KINDS})

    assert dataset.splits == (None,) * 12


def test_three_splits_as_medmnist_has_them(tmp_path):
    dataset = read(
        tmp_path,
        **{f"{split}_images": IMAGES for split in ("train", "val", "test")},
        **{f"{split}_labels": KINDS[:, None].astype(np.uint8) for split in ("train", "val", "test")},
    )

    assert [dataset.splits.count(split) for split in ("train", "validation", "test")] == [12, 12, 12]


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"X": IMAGES, "images": IMAGES, "y": KINDS}, "the images; expected one, found X and images"),
        (
            {"X_train": IMAGES, "x_train": IMAGES, "y_train": KINDS},
            "the images; expected one, found X_train and x_train",
        ),
        ({"X": IMAGES, "y": KINDS, "labels": KINDS}, "the labels; expected one, found y and labels"),
    ],
)
def test_two_candidates_for_one_split_are_refused_with_both(tmp_path, arrays, found):
    with pytest.raises(DatasetError, match=f"more than one array in .* may hold {found}"):
        read(tmp_path, **arrays)


def test_flat_rows_beside_images_are_not_the_images(tmp_path):
    dataset = read(tmp_path, data=IMAGES.reshape(12, -1), images=IMAGES, target=KINDS, target_names=CLASSES)

    assert np.array_equal(dataset.arrays, IMAGES)
    assert dataset.class_names == CLASSES


@pytest.mark.parametrize(
    ("labels", "names", "class_names"),
    [
        (KINDS == 1, None, ("False", "True")),
        (KINDS == 1, ["no", "yes"], ("no", "yes")),
        (KINDS.astype(np.float32), None, ("0", "1", "2")),
        (KINDS.astype(np.float16), None, ("0", "1", "2")),
        (KINDS.astype(np.float64)[:, None], list(CLASSES), CLASSES),
        (KINDS.astype(np.uint8), np.array(CLASSES).astype("S"), CLASSES),
        (np.eye(3, dtype=np.float32)[KINDS], None, ("0", "1", "2")),
        (np.eye(3, dtype=bool)[KINDS], list(CLASSES), CLASSES),
        (np.eye(5, dtype=np.int8)[KINDS], list("abcde"), ("a", "b", "c")),
        (NAMES, None, CLASSES),
        (NAMES.astype("S"), None, CLASSES),
        (NAMES[:, None], None, CLASSES),
    ],
)
def test_labels_of_every_kind_are_taken(tmp_path, labels, names, class_names):
    dataset = read(tmp_path, X=IMAGES, y=labels, **({} if names is None else {"class_names": names}))

    assert dataset.class_names == class_names
    assert dataset.labels == tuple((KINDS == 1).astype(int) if labels.dtype == bool and labels.ndim == 1 else KINDS)


@pytest.mark.parametrize("kind", ["U", "S"])
def test_names_in_two_unicode_forms_or_with_blanks_around_them_are_one_class(tmp_path, kind):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")] + [" café ", "thé"]
    labels = np.array(names * 3) if kind == "U" else np.char.encode(names * 3)

    assert read(tmp_path, X=IMAGES, y=labels).class_names == ("café", "thé")


def test_names_that_are_not_utf_8_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match=r"labels y in .* are not UTF-8; .* found b'caf\\xe9'\. Decode them"):
        read(tmp_path, X=IMAGES, y=np.array([b"caf\xe9", b"the"] * 6))


@pytest.mark.parametrize("names", [["a", "b", "a"], ["a", "b", " "]])
def test_class_names_that_do_not_tell_the_classes_apart_are_refused(tmp_path, names):
    with pytest.raises(DatasetError, match=r"class_names in .* do not tell the classes apart; .* found a, b, "):
        read(tmp_path, X=IMAGES, y=KINDS, class_names=names)


def test_one_hot_labels_of_one_split_and_numbers_of_another_agree(tmp_path):
    dataset = read(tmp_path, x_train=IMAGES, y_train=np.eye(3)[KINDS], x_test=IMAGES, y_test=KINDS)

    assert dataset.labels[:12] == dataset.labels[12:]


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (np.linspace(0.5, 9.7, 12), "are numbers to predict, not classes"),
        (np.arange(12) + 20, "are numbers to predict, not classes"),
        (np.char.mod("%.2f", np.linspace(0.5, 9.7, 12)), "are numbers to predict, not classes"),
        (np.array([[1, 1, 0]] * 12), r"12 images have several classes in labels y in .*, the first is number 0"),
        (np.eye(3)[KINDS] * (KINDS > 0)[:, None], r"4 images have no class in labels y"),
        (np.full((12, 3), 1 / 3), r"several numbers per image; .* y\.argmax\(axis=1\)"),
        (KINDS + np.float64(1234567.5), "are numbers to predict, not classes"),
        (KINDS * 1e300, "are not one class per image"),
        (np.where(KINDS, KINDS, np.nan), r"are missing for 4 images, the first is number 0"),
        (KINDS[:5], r"do not fit the images; expected 12, one per image, found \(5,\)"),
        (KINDS.astype(complex), "are not one class per image"),
        (np.array("apple"), "do not fit the images"),
    ],
)
def test_labels_that_are_no_classes_are_refused_for_what_they_are(tmp_path, labels, line):
    with pytest.raises(DatasetError, match=line):
        read(tmp_path, X=IMAGES, y=labels)


def test_groups_beside_the_images_are_read_without_being_asked_for(tmp_path):
    groups = np.array(["p1", "p2", ""] * 4)

    dataset = read(tmp_path, X_train=IMAGES, y_train=KINDS, groups_train=groups, X_test=IMAGES[:3], y_test=KINDS[:3])

    assert dataset.groups == ("p1", "p2", None) * 4 + (None,) * 3
    assert read(tmp_path, X=IMAGES, y=KINDS).groups is None
    assert read(tmp_path, X=IMAGES, y=KINDS, groups=PATIENTS.astype(np.float32)[:, None]).groups == tuple(
        map(str, PATIENTS)
    )


def test_groups_are_in_the_array_that_is_named(tmp_path):
    dataset = read(tmp_path, ReadingOptions(split_by="Patient"), X=IMAGES, y=KINDS, patient=PATIENTS, groups=KINDS)

    assert dataset.groups == tuple(map(str, PATIENTS))
    with pytest.raises(OptionError, match=r"no groups in .*; expected an array patient beside the images, found X, y"):
        read(tmp_path, ReadingOptions(split_by="patient"), X=IMAGES, y=KINDS)


@pytest.mark.parametrize(
    ("images", "note"),
    [
        (np.moveaxis(IMAGES, 3, 1), ("channels come first, moved last",)),
        (IMAGES, ()),
    ],
)
def test_channels_may_come_first(tmp_path, images, note):
    dataset = read(tmp_path, X=images, y=KINDS)

    assert np.array_equal(dataset.arrays, IMAGES)
    assert dataset.notes == note


@pytest.mark.parametrize(
    ("images", "do"),
    [
        (np.zeros((12, 784), np.uint8), r"such as X\.reshape\(-1, 28, 28, 1\)"),
        (np.zeros((12, 3072), np.uint8), r"such as X\.reshape\(-1, 32, 32, 3\)"),
        (np.zeros((12, 50), np.uint8), r"X\.reshape\(-1, height, width, channels\)"),
        (IMAGES[..., :2], r"such as X\[\.\.\., :3\]"),
        (np.concatenate([IMAGES] * 2, axis=3), r"such as X\[\.\.\., :3\]"),
        (IMAGES[:, None], "single frames or slices"),
    ],
)
def test_a_shape_that_is_not_that_of_images_is_refused_with_what_to_do(tmp_path, images, do):
    with pytest.raises(DatasetError, match=rf"X in .* does not hold images; expected shape .* {do}"):
        read(tmp_path, X=images, y=KINDS)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x80\x04\x95" + bytes(50), "a pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
        (b"hello", "another file"),
    ],
)
def test_a_renamed_file_is_refused_for_what_it_is(tmp_path, data, found):
    (tmp_path / "arrays.npz").write_bytes(data)

    with pytest.raises(DatasetError, match=rf"not an npz file: .*arrays\.npz; found {found}\. Save it with numpy"):
        read_dataset(tmp_path / "arrays.npz")


def test_a_single_array_of_numpy_save_is_refused_for_what_it_is(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)

    with pytest.raises(DatasetError, match=r"not an npz file: .*; found one array, as numpy\.save writes it"):
        read_dataset(tmp_path / "images.npy")
