"""What `extract` prints about the images: what was understood, what was skipped, classes, splits and groups."""

from __future__ import annotations

import json
import shutil

import pytest

from permafrost.cli import run
from permafrost.cli.text import class_lines, skipped_lines, split_lines
from samples import CLASSES

pytest_plugins = ["upper"]
pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture
def call(capsys, tiny_base, tmp_path, monkeypatch):
    """Run `extract` in an empty folder; return what it prints, as lines or decoded."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*arguments: object, as_json: bool = False):
        capsys.readouterr()
        flags = ["--json"] if as_json else []
        command = ["extract", *map(str, arguments), "--base", str(tiny_base), "--pool", "avg", *flags]
        assert run(command) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out) if as_json else out.splitlines()

    return call


@pytest.fixture
def table(photos, tmp_path):
    """A table of 18 images with groups of two, and 3 given splits that tear the first group of each class."""
    rows = ["path,label,group,split"]
    for kind in CLASSES:
        for number, path in enumerate(sorted((photos / kind).iterdir())):
            split = ("train", "test")[number] if kind == "dots" and number < 2 else ""
            rows.append(f"{path},{kind},{kind} {number // 2},{split}")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    return tmp_path / "photos.csv"


def test_notes_come_first_then_warnings_skipped_duplicates_classes_images_groups_and_how_the_split_came_about(
    call, table, photos, tmp_path
):
    with table.open("a") as file:
        file.write(f"\n{tmp_path}/gone.png,dots,,\n{tmp_path}/lost.png,dots,,\n{table},dots,,\n")
        file.write(f"{shutil.copy(photos / 'dots' / 'dots-003.jpg', tmp_path / 'copy.jpg')},checks,,")

    lines = call(table)

    starts = [
        "note: 9 groups by column group for 18 of 22 images; the others stand alone",
        "warning: 1 group is in more than one split, as the dataset gives them, which inflates the score",
        "skipped: 3; `permafrost features show` lists all",
        "  2: no such file, such as ",
        "  1: not an image",
        "duplicates: 0 images are in more than one split, ",
        "  ",
        "classes: 3",
        "  train  validation  test",
        "  ",
        "  ",
        "  ",
        "images: 19 (train ",
        "groups: train ",
        "split: given by the dataset for 2 images; decided by group (column group) for 17: validation 0.15, test 0.15",
        "computed: ",
        "time: ",
        "features: ",
        "store: ",
        "set: ",
    ]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


@pytest.mark.parametrize("flag", [None, "--dry-run"])
def test_json_has_classes_and_groups_of_each_split_and_what_was_understood(call, table, flag):
    result = call(table, *([flag] if flag else []), as_json=True)

    assert set(result["splits"]) == {"train", "validation", "test"}
    assert sum(split["n"] for split in result["splits"].values()) == 18
    for split in result["splits"].values():
        assert sum(split["classes"].values()) == split["n"]
        assert list(split["classes"]) == list(CLASSES)
        assert split["groups"] <= split["n"]
    assert result["splitting"] == {
        "validation_fraction": 0.15,
        "test_fraction": 0.15,
        "split_by": "column group",
        "given": 2,
        "decided": 16,
    }
    assert result["notes"] == ["9 groups by column group"]
    assert result["warnings"] == [
        "1 group is in more than one split, as the dataset gives them, which inflates the score"
    ]
    assert (result["skipped"], result["skipped_paths"], result["classes"]) == (0, [], list(CLASSES))


def test_a_dry_run_says_the_same_about_the_images(call, table):
    planned, done = call(table, "--dry-run"), call(table)

    count = next(number for number, line in enumerate(done) if line.startswith("computed: "))
    assert planned[:count] == done[:count]
    assert planned[count].startswith("would compute 18 of 18 images")


def test_a_dry_run_with_views_counts_the_views_that_would_be_computed(call, photos):
    planned = call(photos, "--views", "3", "--dry-run", as_json=True)
    done = call(photos, "--views", "3", as_json=True)

    assert planned["splits"] == done["splits"]
    assert planned["compute"] == done["computed"] == 18 + 2 * done["splits"]["train"]["n"]


def test_features_show_says_the_same_about_classes_and_splits(call, table, capsys):
    done = call(table)
    first = next(number for number, line in enumerate(done) if line.startswith("classes: "))
    last = next(number for number, line in enumerate(done) if line.startswith("split: "))

    assert run(["features", "show", done[-1].removeprefix("set: ")]) == 0

    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "warning: 1 group is in more than one split, as the dataset gives them, which inflates the score"
    assert "\n".join(done[first : last + 1]) in "\n".join(shown)


@pytest.mark.parametrize("copies", [1, 3])
def test_a_split_that_stays_empty_is_warned_of(call, photos, tmp_path, copies):
    for kind in CLASSES:
        (tmp_path / "few" / kind).mkdir(parents=True)
        for copy in range(copies):
            shutil.copy(photos / kind / f"{kind}-000.png", tmp_path / "few" / kind / f"{copy}.png")

    assert call(tmp_path / "few", "--validation-fraction", "0", as_json=True)["warnings"] == [
        "there are no test images: too few images or groups to hold out 0.15 of each class"
    ]


def test_all_cuts_share_what_is_said_about_the_images(call, split_photos):
    lines = call(split_photos, "--cut", "stem,top")

    assert [line for line in lines if line.startswith(("classes: ", "images: ", "split: "))] == [
        "classes: 3",
        "images: 36 (train 18, validation 9, test 9)",
        "split: given by the dataset",
    ]
    assert sum(line.startswith("set: ") for line in lines) == 2


def test_many_classes_are_not_all_listed():
    classes = {f"class {number:03}": number for number in range(100)}
    splits = {name: {"n": 4950, "classes": classes} for name in ("train", "validation", "test")}

    lines = class_lines(splits)

    assert lines[:3] == ["classes: 100", "  train  validation  test", "      0           0     0  class 000"]
    assert lines[-1] == "  and 80 more"
    assert len(lines) == 23
    assert len(class_lines(splits, maximum=None)) == 102


def test_counts_and_names_of_any_width_are_aligned():
    splits = {name: {"n": 1, "classes": {"犬": 1_234_567, "a\nb": 1}} for name in ("train", "validation", "test")}

    assert class_lines(splits) == [
        "classes: 2",
        "      train  validation       test",
        "  1,234,567   1,234,567  1,234,567  犬",
        "          1           1          1  a\\nb",
    ]


def test_only_the_commonest_reasons_are_listed():
    skipped = [{"path": f"{number}.png", "reason": f"reason {number % 12}"} for number in range(40)]

    lines = skipped_lines({"skipped_paths": skipped})

    assert lines[:2] == ["skipped: 40", "  4: reason 0, such as 0.png"]
    assert lines[-1] == "  and 2 more reasons"
    assert skipped_lines({"skipped_paths": []}) == []


@pytest.mark.parametrize(
    ("given", "decided", "split_by", "line"),
    [
        (3, 0, None, "split: given by the dataset"),
        (0, 3, None, "split: decided by content: validation 0.2, test 0.1"),
        (0, 3, "column patient", "split: decided by group (column patient): validation 0.2, test 0.1"),
        (1, 2, None, "split: given by the dataset for 1 images; decided by content for 2: validation 0.2, test 0.1"),
    ],
)
def test_how_the_split_came_about_is_said(given, decided, split_by, line):
    splits = {name: {"n": 1, "groups": None, "classes": {}} for name in ("train", "validation", "test")}
    about = {"given": given, "decided": decided, "split_by": split_by, "validation_fraction": 0.2, "test_fraction": 0.1}

    assert split_lines({"splits": splits, "splitting": about}) == [
        "images: 3 (train 1, validation 1, test 1)",
        line,
    ]
