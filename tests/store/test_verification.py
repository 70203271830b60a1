"""Verification reads all cached features, and names what cannot be used."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from maintenance import ENGINE, OTHER_SPEC, VERSION_1, flip, shard_path
from permafrost.errors import SetError, VersionError
from permafrost.store import compaction
from permafrost.store import store as stores
from permafrost.store.compaction import compact
from permafrost.store.feature_set import FeatureSet
from permafrost.store.set_content import ViewRows
from permafrost.store.set_file import write_set
from permafrost.store.store import Store
from permafrost.store.verification import verify
from samples import WHOLE_SPEC, make_rows, make_set, spec_with


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def features(folder) -> FeatureSet:
    return make_set(folder, 0, 1)


def kinds(path: Path) -> list[str]:
    return [finding.kind for finding in verify(path).findings]


def test_intact_sets_and_stores_are_counted_and_have_no_findings(folder, features):
    make_set(folder, 2, spec=OTHER_SPEC, name="other.h5")

    found = verify(folder)

    assert (found.sets, found.shards, found.rows, found.faults, found.findings) == (2, 3, 30, 0, [])
    assert found.bytes == sum(path.stat().st_size for path in folder.glob("store/*/*.h5"))


def test_a_set_and_a_store_can_be_checked_alone(folder, features):
    make_set(folder, 2, spec=OTHER_SPEC, name="other.h5")

    assert verify(features.path).shards == verify(features.store.folder).shards == 2
    with pytest.raises(SetError, match=r"no feature set, store or folder of them at .*gone"):
        verify(folder / "gone")


def test_a_damaged_shard_is_named(folder, features):
    flip(shard_path(features), 700)

    (finding,) = verify(folder).findings

    assert (finding.kind, finding.path) == ("damaged", str(shard_path(features)))
    assert "damaged shard" in finding.message


def test_a_missing_shard_is_named_with_the_set_that_needs_it(folder, features):
    shard_path(features).unlink()

    (finding,) = verify(folder).findings

    assert finding.kind == "missing"
    assert finding.path == str(shard_path(features)) and str(features.path) in finding.message


def test_a_shard_that_was_merged_with_others_is_not_missing(folder, features, monkeypatch):
    monkeypatch.setattr(compaction, "MANY", 1)
    compact(features.store)

    assert len(features.store.shard_names()) == 1
    assert verify(folder).findings == []


def test_another_trunks_shard_and_files_that_are_not_part_of_a_store_are_foreign(folder, features):
    other = make_set(folder, 2, spec=OTHER_SPEC, name="other.h5")
    shutil.copy(shard_path(other), features.store.folder)
    (features.store.folder / "notes.txt").write_bytes(b"mine")

    assert kinds(features.store.folder) == ["foreign", "foreign"]


def test_rows_that_are_cached_twice_are_reported_and_are_not_a_fault(folder, features):
    features.store.append(make_rows(WHOLE_SPEC, 10), engine="another")

    found = verify(folder)

    assert [finding.kind for finding in found.findings] == ["duplicate"]
    assert "10 of its rows are in other shards too" in found.findings[0].message
    assert found.faults == 0


def test_damaged_sets_descriptions_and_trunks_are_named(folder, features):
    store = features.store.folder
    flip(features.path, 3000)
    with zipfile.ZipFile(features.store.folder / "trunk.keras", "w") as file:
        file.writestr("config.json", b"some layers")
    flip(features.store.folder / "trunk.keras", 50)

    assert [(finding.kind, Path(finding.path).name) for finding in verify(folder).findings] == [
        ("damaged", "set.h5"),
        ("damaged", "trunk.keras"),
    ]
    (store / "trunk.json").write_bytes(b"{")
    assert kinds(store) == ["damaged"]


def test_a_set_whose_store_of_views_cannot_be_opened_is_named_and_the_rest_is_checked(folder, features):
    spec = spec_with(augmentation="flip")
    store, rows = Store.create(folder / "store", spec, about={}), make_rows(spec, 20)
    shard = store.append(dataclasses.replace(rows, views=np.ones(20, np.int32)), engine=ENGINE)
    places = np.array([[[0, row] for row in range(20)]])
    views = ViewRows(spec=spec, store=f"store/{spec.folder_name}", shards=(shard,), places=places)
    write_set(features.path, dataclasses.replace(features.content, digests=rows.digests, views=views))
    (store.folder / "trunk.json").unlink()
    flip(shard_path(features), 700)

    found = {(finding.kind, finding.path): finding.message for finding in verify(folder).findings}

    assert found.keys() == {("damaged", str(features.path)), ("damaged", str(shard_path(features)))}
    assert f"the store of {features.path} cannot be opened" in found["damaged", str(features.path)]


# While others extract


def test_shards_that_are_merged_meanwhile_are_read_where_they_are_then(folder, features, monkeypatch):
    monkeypatch.setattr(compaction, "MANY", 1)
    for step in ("stat_shard", "verify"):
        act, calls = getattr(Store, step), []

        def merged_meanwhile(self, name, act=act, calls=calls):
            if not calls:
                calls.append(name)
                features.store.append(make_rows(WHOLE_SPEC, 10, seed=7), engine=ENGINE)
                assert compact(Store(self.folder))
            return act(self, name)

        with monkeypatch.context() as patched:
            patched.setattr(Store, step, merged_meanwhile)
            found = verify(folder)

        assert calls and found.findings == []
        assert (found.shards, found.rows) == (1, 30)


def test_a_sets_rows_that_are_merged_while_they_are_looked_for_are_not_missing(folder, features, monkeypatch):
    monkeypatch.setattr(compaction, "MANY", 1)
    other, has_shard, calls = Store(features.store.folder), Store.has_shard, []

    def merged_meanwhile(self, name):
        there = has_shard(self, name)
        if len(calls) < 3:
            calls.append(name)
            other.append(make_rows(WHOLE_SPEC, 10, seed=90 + len(calls)), engine=ENGINE)
            compact(other)
        return there

    monkeypatch.setattr(Store, "has_shard", merged_meanwhile)

    assert verify(features.path).findings == []
    assert len(calls) == 3


def test_a_trunk_that_goes_while_it_is_looked_at_is_not_a_fault(folder, features, monkeypatch):
    (features.store.folder / "trunk.openvino").symlink_to("gone")

    assert verify(folder).findings == []


# Other format versions


def test_a_set_of_version_1_is_named_and_is_not_a_fault(tmp_path):
    shutil.copytree(VERSION_1, tmp_path, dirs_exist_ok=True)

    found = verify(tmp_path)

    assert [(finding.kind, finding.path) for finding in found.findings] == [("version", str(tmp_path / "photos.h5"))]
    assert "is a feature set of an older version; expected 3, found 1" in found.findings[0].message
    assert (found.faults, found.rows) == (0, 4)
    with pytest.raises(VersionError, match="older version"):
        verify(tmp_path / "photos.h5")


def test_a_store_of_an_older_version_is_named_and_is_not_a_fault(folder, features, monkeypatch):
    store = features.store.folder
    monkeypatch.setattr(stores, "STORE_VERSION", 2)

    (finding,) = verify(store).findings

    assert finding.kind == "version"
    assert "is a store of another version: format version; expected 2, found 1" in finding.message
    assert [finding.kind for finding in verify(folder).findings] == ["version", "version"]  # The set's, and the store.
