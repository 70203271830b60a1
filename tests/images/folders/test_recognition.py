"""How the levels of folders of well-known datasets, and of odd ones, are read."""

from __future__ import annotations

import collections
import re

import pytest

from permafrost.errors import DatasetError, OptionError
from permafrost.images.dataset import read_dataset
from permafrost.images.options import ReadingOptions
from samples import expanded, write_images, write_photos


def counted(root, layout: str | None = None) -> str:
    """Return the number of images of each class in each split as text: `test: a 1, b 1; train: a 2`."""
    dataset = read_dataset(root, ReadingOptions(layout=layout), min_classes=1)
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for split, label in zip(dataset.splits, dataset.labels, strict=True):
        counts[split or "unsplit"][dataset.class_names[label]] += 1
    return "; ".join(
        f"{split}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts[split].items()))
        for split in sorted(counts)
    )


@pytest.mark.parametrize(
    ("paths", "result"),
    [
        ("seg_{train,test}/seg_{train,test}/{a,b}/1.jpg seg_pred/seg_pred/1.jpg", None),
        ("seg_train/seg_train/{a,b}/1.jpg seg_test/seg_test/{a,b}/1.jpg", "test: a 1, b 1; train: a 1, b 1"),
        (
            "x/{train,val}/{a,b}/1.jpg x/x/{train,val}/{a,b}/1.jpg x/__MACOSX/1.jpg",
            "train: a 1, b 1; validation: a 1, b 1",
        ),
        ("x/{a,b,c}/1.jpg x/x/{a,b,c}/1.jpg", "unsplit: a 1, b 1, c 1"),
        ("al_train/al_train/{a,b}/1.jpg al_test/al_test/{a,b}_test.jpg", "train: a 1, b 1"),
        ("f/{Training,Test}/{a,b}/1.jpg f/test-many/1.jpg f/papers/x.pdf", "test: a 1, b 1; train: a 1, b 1"),
        ("{train_another,test_another,test}/{a,b}/1.jpg", "test: a 2, b 2; train: a 1, b 1"),
        ("train/{n01,n02}/images/1.jpg {val,test}/images/1.jpg val/boxes.txt", "train: n01 1, n02 1"),
        ("x/Data/CLS/train/{a,b}/1.jpg x/Data/CLS/val/1.jpg x/Notes/1.xml", "train: a 1, b 1"),
        ("x/{good,bad}/SOB/{k,l}/40X/1.png", None),
        ("x/good/SOB/40X/1.png x/bad/SOB/40X/1.png", "unsplit: bad 1, good 1"),
        ("Train/{0,1,2}/1.png Test/1.png Meta/0.png Train.csv", "train: 0 1, 1 1, 2 1"),
        ("train/{cat,dog}/1.jpg test/test/1.jpg", "train: cat 1, dog 1"),
        ("train/{cat,dog}/1.jpg test/unknown/1.jpg", "test: unknown 1; train: cat 1, dog 1"),
        (
            "train/good/1.png test/{good,broken}/1.png ground_truth/broken/1.png",
            "test: broken 1, good 1; train: good 1",
        ),
        ("{train,test}/data/{a,b}/1.jpg train/data/read.me", "test: a 1, b 1; train: a 1, b 1"),
        ("train/{a,b}/1.jpg test/a/{x,y}/1.jpg", "test: a 2; train: a 1, b 1"),
        ("train/{train,val}/{a,b}/1.jpg", "train: a 1, b 1; validation: a 1, b 1"),
        ("apple/{train,test}/1.jpg berry/train/1.jpg cherry/x.txt", "test: apple 1; train: apple 1, berry 1"),
        (
            "apple/apple_{train,test}/1.jpg berry/berry_{train,test}/1.jpg",
            "test: apple 1, berry 1; train: apple 1, berry 1",
        ),
        ("data/{a,b}/1.jpg preview.jpg README.md docs/x.txt", "unsplit: a 1, b 1"),
        ("cat/1.jpg dog/{terrier,poodle}/1.jpg", "unsplit: cat 1, dog 2"),
        ("{a,b}/thumbnails/1.jpg", "unsplit: a 1, b 1"),
        ("n01/tench/1.jpg n02/goldfish/1.jpg", "unsplit: n01 1, n02 1"),
        ("test_strip/1.jpg boots/1.jpg dev_board/1.jpg", "unsplit: boots 1, dev_board 1, test_strip 1"),
        ("train_v2/{a,b}/1.jpg val/{a,b}/1.jpg", "train: a 1, b 1; validation: a 1, b 1"),
        ("{train,test}/{a,b}/1.jpg {train,test}_masks/{a,b}/1.png", "test: a 1, b 1; train: a 1, b 1"),
        ("{train,test}{A,B}/1.jpg", None),
        ("{a,b,c}/{a,b,c}/1.jpg", None),
        ("apple/1.jpg", "unsplit: apple 1"),
    ],
)
def test_the_levels_of_folders_are_recognised(tmp_path, paths, result):
    write_images(tmp_path, *expanded(paths))

    if result is None:
        with pytest.raises(DatasetError):
            counted(tmp_path)
    else:
        assert counted(tmp_path) == result


BOTTLES = "{bottle,cable}/train/good/1.png {bottle,cable}/test/{good,bent}/1.png bottle/ground_truth/bent/1.png"


@pytest.mark.parametrize(
    ("paths", "readings"),
    [
        (BOTTLES, {"class/split": "test: bottle 2, cable 2; train: bottle 1, cable 1", "*/split/class": None}),
        (
            "fold{1,2}/{train,test}/{a,b}/1.jpg",
            {"class/split": None, "*/split/class": "test: a 2, b 2; train: a 2, b 2"},
        ),
        ("{cam1,cam2}/{cat,dog}/1.jpg misc/1.jpg", {"class": None, "*/class": "unsplit: cat 2, dog 2"}),
        ("x/{cam1,cam2}/{cat,dog}/1.jpg", {"*/class": "unsplit: cam1 2, cam2 2", "*/*/class": "unsplit: cat 2, dog 2"}),
        ("train/{p1,p2}/{a,b}/1.jpg test/p3/{a,b}/1.jpg", {"split/class": None, "split/*/class": None}),
        ("{left,right}/1.jpg {left,right}/{a,b}/1.jpg", {"class": "unsplit: left 3, right 3", "*/class": None}),
        ("Dataset/{0,1}/1.jpg Examples/0.jpg", {"class": None, "*/class": "unsplit: 0 1, 1 1"}),
        ("trainval/{a,b}/1.jpg test/{a,b}/1.jpg", {"class": None, "split/class": "test: a 1, b 1"}),
        ("apple/{train,test}/1.jpg berry/1.jpg", {"class": "unsplit: apple 2, berry 1", "class/split": None}),
        (
            "apple/{train,test}/1.jpg",
            {"*/class": "unsplit: test 1, train 1", "class/split": "test: apple 1; train: apple 1"},
        ),
        ("{train,test}/{valid,invalid}/1.jpg", {"split/class": "test: invalid 1, valid 1; train: invalid 1, valid 1"}),
        ("{cats,dogs}_{train,test}/1.jpg", {"class": "unsplit: cats_test 1, cats_train 1, dogs_test 1, dogs_train 1"}),
    ],
)
def test_what_has_two_readings_is_refused_with_the_layouts_that_confirm_each(tmp_path, paths, readings):
    write_images(tmp_path, *expanded(paths))

    with pytest.raises(DatasetError) as refused:
        counted(tmp_path)

    for layout, result in readings.items():
        shown = f"'{layout}'" if "*" in layout else layout
        assert re.search(rf"--layout {re.escape(shown)}[) ]", str(refused.value))
        found = counted(tmp_path, layout)
        assert result in (None, found)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("2019", "2020"), "years"),
        (("2019-05", "2020-06"), "dates"),
        (("cam1", "camera_2"), "cameras"),
        (("patient01", "patient02"), "people"),
        (("fold1", "fold2"), "folds"),
        (("HAM_images_part_1", "HAM_images_part_2"), "batches or parts"),
        (("images", "masks"), "kinds of files"),
        (("treino", "teste"), "splits"),
    ],
)
def test_classes_that_look_like_something_else_are_warned_of_until_the_layout_confirms_them(tmp_path, names, kind):
    write_images(tmp_path, *(f"{name}/1.png" for name in names))

    (warning,) = read_dataset(tmp_path).warnings

    assert warning.startswith(f"the class folders look like {kind}: {', '.join(sorted(names))}; --layout says")
    assert read_dataset(tmp_path, ReadingOptions(layout="class")).warnings == ()


@pytest.mark.parametrize("names", [("0", "1", "2"), ("class1", "class2"), ("mask", "no_mask"), ("may", "tulip")])
def test_ordinary_class_names_are_not_warned_of(tmp_path, names):
    assert read_dataset(write_images(tmp_path, *(f"{name}/1.png" for name in names))).warnings == ()


def test_what_was_understood_is_noted(tmp_path):
    write_images(tmp_path, *expanded("photos/{seg_train,test}/{a,b}/1.jpg photos/test/c/1.jpg photos/query/1.jpg"))

    dataset = read_dataset(tmp_path)

    assert dataset.notes == ("read from photos, the only folder with images", "split folders: seg_train is train")
    assert dataset.skipped == (("photos/query", "beside the split folders"),)


@pytest.mark.parametrize("layout", ["", "split", "class/class", "split/split/class", "class/photos", "class//split"])
def test_an_unknown_layout_is_refused(layout):
    with pytest.raises(OptionError, match="unknown layout; expected levels of folders such as class, split/class"):
        ReadingOptions(layout=layout)


def test_a_layout_that_does_not_fit_is_refused(tmp_path):
    write_images(tmp_path, "a/1.jpg", "b/1.jpg")

    with pytest.raises(DatasetError, match=r"no split folders in .*; expected the layout split/class, .*, found a, b"):
        counted(tmp_path, "split/class")
    with pytest.raises(DatasetError, match=r"no class folders in .* at the level that --layout \*/class says"):
        counted(tmp_path, "*/class")


def test_a_layout_is_for_folders_only(tmp_path):
    table = write_photos(tmp_path / "photos.csv", per_class=1)
    (tmp_path / "table.csv").write_text("path,label\n")

    assert read_dataset(table, ReadingOptions(layout="class")).class_names
    with pytest.raises(OptionError, match=r"layout is for folders; expected a folder, found .*table\.csv"):
        read_dataset(tmp_path / "table.csv", ReadingOptions(layout="class"))
