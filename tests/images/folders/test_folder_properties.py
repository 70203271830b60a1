"""What holds for every tree of folders, whatever is in it."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from permafrost.errors import DatasetError
from permafrost.images.dataset import Dataset, read_dataset
from permafrost.images.options import ReadingOptions
from permafrost.images.splitting.names import split_named
from samples import SMALL_IMAGE

Tree: TypeAlias = "Mapping[str, bytes | Tree]"

FILES = {
    "1.png": SMALL_IMAGE,
    "2.JPG": b"cut short",
    "0a1f": SMALL_IMAGE,
    "README": b"mine",
    "3.nef": b"II*\0",
    ".4.png": b"",
}
CLASSES = ["a", "b", "c", "A", "café", "café", "2019", "cam1", "cam2", "test strip", "data", "__MACOSX", ".git"]
SPLITS = {
    **dict.fromkeys(["train", "seg_train", "a_train", "b_train"], "train"),
    **dict.fromkeys(["Test", "seg_test", "a_test", "b_test"], "test"),
    **dict.fromkeys(["val2017", "dev"], "validation"),
}
IMAGES = {"1.png": SMALL_IMAGE}

PLACES = st.dictionaries(st.sampled_from(sorted(FILES)), st.none(), max_size=4).map(
    lambda names: {name: FILES[name] for name in names}
)


def layer(below: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    """Draw a folder with folders that are called like classes, or like splits, or both, and with files."""
    names = st.sampled_from([CLASSES[:3], CLASSES, [*SPLITS], [*CLASSES, *SPLITS]]).map(st.sampled_from)
    folders = names.flatmap(lambda pool: st.dictionaries(pool, below, min_size=1, max_size=4))
    return st.tuples(folders, st.one_of(st.just({}), PLACES)).map(lambda parts: {**parts[0], **parts[1]})


TREES = st.one_of(
    layer(PLACES), layer(layer(PLACES)), layer(layer(layer(PLACES))), layer(st.one_of(PLACES, layer(PLACES)))
)
LAYOUTS = st.sampled_from([None, None, None, "class", "split/class", "class/split", "*/class", "*/split/class"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(tree=TREES, layout=LAYOUTS)
@example(tree={"train": {"a": IMAGES, "b": IMAGES}, "Test": {"a": IMAGES, "c": {}}, "b": FILES}, layout=None)
@example(tree={"a": {"a_train": IMAGES, "a_test": FILES, "b": IMAGES}, "b": {"Test": IMAGES}}, layout=None)
@example(tree={"data": {"seg_train": {"seg_train": {"a": IMAGES}}, "seg_test": {"a": IMAGES}}}, layout=None)
@example(tree={"a": IMAGES, "b": IMAGES, "data": {"a": IMAGES, "b": IMAGES}}, layout=None)
@example(tree={"train": {"data": {"a": IMAGES, "b": IMAGES}, **FILES}, "Test": {"a": IMAGES}}, layout=None)
@example(tree={"a": {}, "b": {"c": IMAGES}}, layout="*/class")
def test_what_was_read_and_what_was_skipped_is_all_that_is_there(tmp_path, tree, layout):
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    write(root, tree)
    options = ReadingOptions(layout=layout)
    try:
        dataset = read_dataset(root, options, min_classes=1)
    except DatasetError as error:
        with pytest.raises(DatasetError) as again:
            read_dataset(root, options, min_classes=1)
        assert str(again.value) == str(error)
        return

    assert read_dataset(root, options, min_classes=1) == dataset
    skipped = [name for name, _ in dataset.skipped]
    found = list(leaves(root, ""))
    assert len(set(dataset.names)) == len(dataset.names)
    assert sorted(dataset.names) == sorted(name for name in found if not covers(skipped, name))
    assert all(os.path.lexists(root / name) and reason for name, reason in dataset.skipped)
    assert_labels_are_folders_above(dataset)
    if layout is None:
        assert not [name for name in dataset.class_names if split_named(name)]


def assert_labels_are_folders_above(dataset: Dataset) -> None:
    """Check that the class and the split of each image are named by folders that it is in."""
    for name, label, split in zip(dataset.names, dataset.labels, dataset.splits, strict=True):
        above = name.split("/")[:-1]
        assert dataset.class_names[label] in [unicodedata.normalize("NFC", folder) for folder in above]
        assert split is None or split in [SPLITS.get(folder) for folder in above]


def write(folder: Path, tree: Tree) -> None:
    folder.mkdir()
    for name, found in tree.items():
        if isinstance(found, bytes):
            (folder / name).write_bytes(found)
        else:
            write(folder / name, found)


def leaves(root: Path, folder: str) -> Iterator[str]:
    """Yield the paths of all files and empty folders below a folder."""
    for name in sorted(os.listdir(root / folder)):
        path = os.path.join(folder, name)
        if (root / path).is_dir() and os.listdir(root / path):
            yield from leaves(root, path)
        else:
            yield path


def covers(skipped: list[str], name: str) -> bool:
    """Return whether a path, or a folder that it is in, was skipped."""
    parts = name.split("/")
    return any("/".join(parts[:count]) in skipped for count in range(1, len(parts) + 1))
