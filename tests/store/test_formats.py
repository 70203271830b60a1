"""Files of other versions are recognised, named and left alone, and are never in the way of new ones."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import permafrost
from permafrost.errors import RunError, VersionError
from permafrost.extraction.cache import CachedStore
from permafrost.model.run import RUN_VERSION, free_folder
from permafrost.store import store as stores
from permafrost.store.feature_set import open_features
from permafrost.store.set_file import SET_VERSION
from permafrost.store.shard import SHARD_VERSION
from permafrost.store.store import STORE_VERSION, Store, store_folder
from samples import WHOLE_SPEC, make_rows, make_set

ROOT = Path(__file__).parents[2]
FORMATS = ROOT / "tests" / "formats"
VERSION_1 = FORMATS / "version-1"
ENGINE = "keras/tensorflow"


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_page_of_the_formats_names_the_version_of_each():
    page = (ROOT / "features" / "README.md").read_text()

    named = {
        name: int(version) for version, name in re.findall(r"^\|[^|]*\| (\d+) \|.*`(\w+_VERSION)` \|$", page, re.M)
    }

    assert named == {
        "SHARD_VERSION": SHARD_VERSION,
        "STORE_VERSION": STORE_VERSION,
        "SET_VERSION": SET_VERSION,
        "RUN_VERSION": RUN_VERSION,
    }
    assert STORE_VERSION >= SHARD_VERSION


# Version 1


@pytest.mark.parametrize("version", [1, 2])
def test_a_set_of_an_older_version_is_recognised_and_named(version):
    with pytest.raises(
        VersionError,
        match=rf"photos\.h5 is a feature set of an older version; expected 3, found {version}\. Run extract again",
    ):
        open_features(FORMATS / f"version-{version}" / "photos.h5")


def test_a_store_of_version_1_is_read_as_it_was_written():
    (folder,) = (VERSION_1 / "store").iterdir()
    store, rows = Store(folder), make_rows(WHOLE_SPEC, 4)
    (shard,) = store.shard_names()

    loaded, _ = store.load(shard)

    assert store.spec == WHOLE_SPEC
    assert np.array_equal(loaded.features[0], rows.features[0])
    assert np.array_equal(loaded.digests, rows.digests)
    assert store.verify(shard) == 4


def test_extract_replaces_a_set_of_version_1_of_the_same_name(tiny_base, photos, tmp_path):
    shutil.copytree(VERSION_1, tmp_path, dirs_exist_ok=True)
    (old_store,) = (tmp_path / "store").iterdir()
    before = content_of(old_store)

    features = permafrost.extract(photos, base=str(tiny_base), out=tmp_path / "photos.h5", progress=False)

    assert len(open_features(tmp_path / "photos.h5")) == len(features)
    assert content_of(old_store) == before


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_of_an_older_version_is_recognised_and_named(version):
    with pytest.raises(RunError, match=rf"run is a run of another version; expected 3, found {version}\. Fit again"):
        permafrost.open_run(FORMATS / f"version-{version}" / "run")


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_of_an_older_version_is_not_in_the_way_of_a_new_one(version):
    run = FORMATS / f"version-{version}" / "run"

    assert free_folder(run, "photos") == run


# A store of an older version, as a later version will find it


@pytest.fixture
def old_store(tmp_path, monkeypatch) -> Path:
    """A store that an earlier version wrote, for the trunk of `WHOLE_SPEC`."""
    folder = make_set(tmp_path, 0).store.folder
    monkeypatch.setattr(stores, "STORE_VERSION", 2)
    return folder


def test_a_store_of_an_older_version_is_recognised_and_named(old_store):
    with pytest.raises(
        VersionError,
        match=r"tiny-top-.* is a store of another version: format version; expected 2, found 1\. Leave it to",
    ):
        Store(old_store)


def test_features_are_cached_anew_beside_a_store_of_an_older_version(old_store):
    before = content_of(old_store)
    rows = make_rows(WHOLE_SPEC, 10, seed=0)
    keys = [(digest.tobytes(), 0) for digest in rows.digests]
    cache = CachedStore(WHOLE_SPEC, old_store.parent, ["top"])
    assert not any(cache.has(keys))

    cache.commit(keys, rows.features, ENGINE)

    assert cache.folder == store_folder(old_store.parent, WHOLE_SPEC)
    assert cache.folder.name == f"{old_store.name}-v2"
    assert np.array_equal(cache.gather(keys)[0], rows.features[0])
    assert all(CachedStore(WHOLE_SPEC, old_store.parent, ["top"]).has(keys))
    assert content_of(old_store) == before


def test_a_set_whose_store_is_of_an_older_version_is_named(old_store):
    with pytest.raises(VersionError, match=r"the store of .*set\.h5 is of another version: .*Run extract again"):
        open_features(old_store.parents[1] / "set.h5")
