"""The default name of a set says what it is of: other data or another base never replaces it.

Public bug reports: ViCCo-Group/thingsvision#113, ultralytics/yolov5#2121.
"""

from __future__ import annotations

import pytest

import permafrost as pf
from permafrost.errors import DatasetError
from samples import CLASSES, tiny_model, write_photos


@pytest.fixture
def take(tmp_path, monkeypatch):
    """`extract` in an empty folder, with no name given."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    tiny_model().save(tmp_path / "tiny.keras")
    tiny_model(seed=1).save(tmp_path / "other.keras")

    def take(data, base="tiny"):
        return pf.extract(data, base=str(tmp_path / f"{base}.keras"), pool="avg", engine="keras", progress=False)

    return take


def test_two_folders_of_one_name_do_not_share_a_set(take, tmp_path):
    fruit = write_photos(tmp_path / "fruit" / "images", per_class=3, classes=CLASSES[:2])
    cars = write_photos(tmp_path / "cars" / "images", per_class=3, classes=CLASSES[1:], first=50)
    first = take(fruit)

    with pytest.raises(DatasetError, match=r"another dataset of this name; expected .*fruit.*cars.*Name the file with"):
        take(cars)

    assert pf.open_features(first.path).class_names == list(CLASSES[:2])


def test_two_bases_on_one_folder_have_sets_of_their_own(take, photos):
    first, second = take(photos), take(photos, "other")

    assert first.path != second.path
    assert pf.open_features(first.path).spec == first.spec
