"""The splits of an extraction: groups, given splits, views, and images that turn out to be undecodable."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from permafrost import open_features
from permafrost.extraction import splitting
from permafrost.images.splits import SPLITS
from permafrost.images.splitting.units import group_numbers
from samples import CLASSES, write_photos

pytest_plugins = ["upper"]


def split_of(features) -> dict[str, str]:
    return {name: SPLITS[number] for name, number in zip(features.names(), features.content.splits, strict=True)}


@pytest.fixture
def bursts(tmp_path) -> Path:
    """Three classes of 12 images, in bursts of three whose folders have one name in all classes."""
    data = write_photos(tmp_path / "flat", per_class=12)
    for path in list(data.rglob("*.*")):
        target = tmp_path / "bursts" / path.parent.name / f"burst {int(path.stem[-3:]) // 3}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    return tmp_path / "bursts"


def test_images_of_a_group_share_a_split_and_the_set_remembers_groups_and_rule(take, bursts):
    features = open_features(
        take(bursts, layout="class", split_by="folder-1", validation_fraction=0.2, test_fraction=0.3).path
    )

    found: dict[str, set[str]] = {}
    for name, split in split_of(features).items():
        found.setdefault(name.split("/")[1], set()).add(split)
    assert all(len(splits) == 1 for splits in found.values())
    assert len(set.union(*found.values())) > 1
    assert features.groups().tolist() == group_numbers([name.split("/")[1] for name in features.names()]).tolist()
    assert features.about["splits"] == {
        "validation_fraction": 0.2,
        "test_fraction": 0.3,
        "split_by": "folder-1",
        "given": 0,
        "decided": 36,
    }


def test_without_the_option_the_images_of_a_burst_are_split_each_for_itself(take, bursts):
    features = take(bursts, layout="class")

    assert features.groups() is None
    assert features.about["splits"]["split_by"] is None


def test_given_splits_are_recorded_as_such(take, split_photos):
    assert {key: take(split_photos).about["splits"][key] for key in ("given", "decided")} == {"given": 36, "decided": 0}


def test_views_and_no_views_have_the_same_splits(take, bursts):
    alone, viewed = (
        take(bursts, layout="class", split_by="folder-1"),
        take(bursts, layout="class", split_by="folder-1", views=3),
    )

    assert split_of(alone) == split_of(viewed)
    assert viewed.arrays("train", view=2)[0].shape == (len(viewed.rows("train")), 16)
    assert (viewed.content.views.places[:, viewed.content.splits > 0] == -1).all()


@pytest.mark.parametrize("number", range(4))
def test_undecodable_images_do_not_decide_which_images_have_views(take, tmp_path, number, computed):
    # They are hashed before anything is decoded, and count then.
    data = write_photos(tmp_path / "data", per_class=5, first=10 * number)
    for kind in CLASSES[:2]:
        for bad in range(30):
            (data / kind / f"bad-{bad}.png").write_bytes(b"\x89PNG\r\n\x1a\n%d %d" % (number, bad))

    viewed = take(data, views=2, augment="flip")

    assert viewed.summary["skipped"] == 60
    assert len(viewed) == 15
    assert len(viewed.arrays("train", view=1)[0]) == len(viewed.rows("train"))
    assert split_of(viewed) == split_of(take(data))
    assert viewed.summary["engine"] is not None
    assert viewed.summary["computed"] == sum(computed)


def test_files_are_read_once_unless_there_are_views_and_splits_to_decide(take, photos, split_photos, monkeypatch):
    hashed: list[int] = []
    ahead = splitting.Splitting.ahead
    monkeypatch.setattr(splitting.Splitting, "ahead", lambda self: hashed.append(1) or ahead(self))

    take(photos)
    assert not hashed
    take(photos, views=2)
    assert len(hashed) == 1
    monkeypatch.setattr(splitting, "Reader", None)
    take(split_photos, views=2)


def test_the_same_photos_in_a_table_and_in_folders_are_split_alike(take, photos, tmp_path):
    folder = take(photos)
    rows = [f"{photos}/{name},{name.split('/')[0]}" for name in sorted(folder.names(), reverse=True)]
    (tmp_path / "photos.csv").write_text("\n".join(["path,label", *rows]))

    table = take(tmp_path / "photos.csv")

    by_name = {Path(name).name: split for name, split in split_of(table).items()}
    assert by_name == {Path(name).name: split for name, split in split_of(folder).items()}


def test_groups_in_a_dataset_whose_images_are_all_for_testing_have_no_views(take, photos, tmp_path):
    rows = [f"{path},{path.parent.name},test" for path in sorted(photos.rglob("*.*"))]
    (tmp_path / "photos.csv").write_text("\n".join(["path,label,split", *rows]))

    features = take(tmp_path / "photos.csv", views=2)

    assert features.rows("train").tolist() == []
    assert np.all(features.content.views.places == -1)
    (warning,) = features.summary["warnings"]
    assert warning == "there are no training images of checks, dots, stripes, so no head can be fitted"
