"""Names of feature sets: two trunks on one dataset, and two datasets of one name, never replace each other."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost import extract, open_features
from permafrost.errors import DatasetError
from permafrost.extraction.extracted import ExtractedSet
from permafrost.store.pruning import prune
from permafrost.store.verification import set_files
from samples import write_photos


@pytest.fixture
def take(tiny_base, tmp_path, monkeypatch):
    """`extract` in an empty folder, with a tiny base and no name given."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def take(data: Path, **options) -> ExtractedSet:
        return extract(data, **{"base": str(tiny_base), "pool": "avg", "engine": "keras", "progress": False} | options)

    return take


def name(features: ExtractedSet) -> str:
    return Path(features.path).name


def test_the_name_says_data_base_and_cut(take, photos):
    assert name(take(photos)) == "photos-tiny-top.h5"
    assert name(take(photos, cut="stem")) == "photos-tiny-stem.h5"
    assert [name(features) for features in take(photos, cut=["stem", "top"])] == [
        "photos-tiny-stem.h5",
        "photos-tiny-top.h5",
    ]


@pytest.mark.parametrize("hidden", [".photos", "my\\photos"])
def test_a_set_is_found_again_whatever_the_name_of_its_dataset(take, photos, tmp_path, hidden):
    data = shutil.copytree(photos, tmp_path / hidden)
    features = take(data)

    assert set_files(features.path.parent) == [features.path]
    assert prune(features.path.parent, confirm=lambda _: True)[0].removals == []


@pytest.mark.parametrize("other", [{"pool": "max"}, {"image_size": 40}, {"dtype": "float16"}])
def test_a_second_trunk_on_the_same_dataset_gets_a_set_of_its_own(take, photos, other):
    first = take(photos)
    second = take(photos, **other)

    assert name(second) == f"photos-tiny-top-{second.spec.key}.h5"
    assert open_features(first.path).spec == first.spec
    # The same requests again give the same names.
    assert name(take(photos)) == name(first)
    assert name(take(photos, **other)) == name(second)


def test_views_get_a_set_of_their_own(take, photos):
    first = take(photos)
    second, third = take(photos, views=2, augment="flip"), take(photos, views=2, augment="rotate")

    assert name(second) == "photos-tiny-top-views2.h5"
    assert len({name(features) for features in (first, second, third)}) == 3
    assert [open_features(features.path).views for features in (first, second, third)] == [1, 2, 2]
    assert name(take(photos, views=2, augment="flip")) == name(second)


def test_another_dataset_of_the_same_name_is_refused_with_what_to_do(take, photos, tmp_path):
    first = take(photos)
    other = write_photos(tmp_path / "elsewhere" / "photos", per_class=3)
    for path in other.rglob("*.*"):  # Other images under the same names
        path.write_bytes(path.read_bytes() + b"another")

    with pytest.raises(DatasetError) as caught:
        take(other)

    assert str(caught.value) == (
        f"{Path('features', name(first))} holds the features of another dataset of this name; expected {photos}, "
        f"found {other}. Name the file with --out"
    )
    assert open_features(first.path).names() == first.names()
    assert len(take(other, out="features/other.h5")) == 9


def test_a_dataset_that_was_moved_and_grew_keeps_its_set(take, own_photos, tmp_path):
    first = take(own_photos)
    (tmp_path / "moved").mkdir()
    moved = Path(shutil.move(own_photos, tmp_path / "moved" / own_photos.name))
    write_photos(moved, per_class=8)

    again = take(moved)

    assert name(again) == name(first)
    assert open_features(again.path).root == str(moved)
    assert len(again) > len(first)


def test_a_file_of_another_kind_or_version_is_left_alone_and_a_damaged_set_is_replaced(take, photos):
    first = take(photos)
    path = Path(first.path)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 99
    newer = path.read_bytes()

    second = take(photos)

    assert name(second) == f"photos-tiny-top-{second.spec.key}.h5"
    assert path.read_bytes() == newer
    path.unlink()
    with h5py.File(path, "w") as file:
        file["mine"] = np.arange(3)
    assert name(take(photos, pool="max")) != path.name
    os.remove(path)
    path.write_bytes(b"rubbish")
    assert name(take(photos, dtype="float16")) == path.name


def test_a_plan_names_the_file_that_would_be_written(take, photos, tiny_base):
    from permafrost.extraction.extract import Extraction
    from permafrost.extraction.options import ExtractOptions

    take(photos)
    (plan,) = Extraction(photos, ExtractOptions(base=str(tiny_base), pool="max")).plan()

    assert plan.set.startswith(os.path.join("features", "photos-tiny-top-"))
    assert json.dumps(plan.set)
