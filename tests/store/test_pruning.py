"""Pruning removes what no feature set uses, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from maintenance import ENGINE, OTHER_SPEC, VERSION_1, flip
from permafrost.errors import SetError
from permafrost.store import compaction
from permafrost.store import store as stores
from permafrost.store.compaction import compact
from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.store.pruning import prune
from permafrost.store.store import Store
from permafrost.store.verification import verify
from samples import WHOLE_SPEC, make_rows, make_set, spec_with


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def features(folder) -> FeatureSet:
    return make_set(folder, 0, 1)


def pruned(folder: Path, *, yes: bool = True):
    return prune(folder, confirm=lambda _: yes)[0]


def test_shards_that_sets_use_stay(folder, features):
    make_set(folder, 1, 2, name="second.h5")
    make_set(folder, 3, spec=OTHER_SPEC, name="third.h5")
    before = sorted(folder.rglob("*"))

    assert pruned(folder).removals == []
    assert sorted(folder.rglob("*")) == before


def test_shards_that_no_set_uses_are_removed_and_their_size_is_reported(folder, features):
    unused = features.store.folder / features.store.append(make_rows(WHOLE_SPEC, 10, seed=9), engine=ENGINE)
    size = unused.stat().st_size

    shown = pruned(folder, yes=False)

    assert [(removal.path, removal.bytes) for removal in shown.removals] == [(str(unused), size)]
    assert shown.bytes == size and unused.exists()
    pruned(folder)
    assert not unused.exists()
    assert len(features.arrays()[0]) == 20


def test_a_store_that_no_set_uses_is_removed_but_not_the_files_of_others_in_it(folder, features):
    unused = make_set(folder, 3, spec=OTHER_SPEC, name="other.h5").store.folder
    make_set(folder, 4, spec=spec_with(dtype="float16"), name="third.h5")
    for name in ("other.h5", "third.h5"):
        (folder / name).unlink()
    (unused / "notes.txt").write_bytes(b"mine")

    pruned(folder)

    assert sorted(os.listdir(folder / "store")) == sorted([WHOLE_SPEC.folder_name, OTHER_SPEC.folder_name])
    assert os.listdir(unused) == ["notes.txt"]
    assert len(features.arrays()[0]) == 20


def test_shards_into_which_a_sets_rows_were_merged_stay(folder, features, monkeypatch):
    x, _ = features.arrays()
    monkeypatch.setattr(compaction, "MANY", 1)
    compact(features.store)

    assert pruned(folder).removals == []
    assert np.array_equal(open_features(features.path).arrays()[0], x)


def test_damaged_shards_that_no_set_uses_are_removed(folder, features):
    again = features.store.append(make_rows(WHOLE_SPEC, 10, seed=9), engine=ENGINE)
    flip(features.store.folder / again, 700)

    pruned(folder)

    assert verify(folder).findings == []


def test_a_store_that_an_extraction_is_using_is_left_alone(folder, features):
    features.store.append(make_rows(WHOLE_SPEC, 10, seed=9), engine=ENGINE)
    at_work = Store.find(folder / "store", WHOLE_SPEC)

    left = pruned(folder)

    assert (left.removals, [(each.path, each.why) for each in left.spared]) == (
        [],
        [(str(features.store.folder), "an extraction is using it")],
    )
    del at_work
    assert len(pruned(folder).removals) == 1


def test_nothing_is_removed_while_a_set_cannot_be_read(folder, features):
    features.store.append(make_rows(WHOLE_SPEC, 10, seed=9), engine=ENGINE)
    features.path.write_bytes(features.path.read_bytes()[:-100])

    with pytest.raises(SetError, match=r"nothing can be removed, because it is unknown what .*set\.h5 uses"):
        pruned(folder)


def test_a_plain_hdf5_file_beside_the_sets_is_ignored(folder, features):
    with h5py.File(folder / "plain.h5", "w") as file:
        file["X"] = np.zeros(3)

    assert pruned(folder).removals == []
    assert (folder / "plain.h5").exists()


def test_temporary_files_of_crashed_processes_are_removed(folder, features):
    left = [folder / ".tmp-4194305-0123abcd-x.h5", features.store.folder / ".tmp-4194305-0123abcd-y.h5"]
    for path in left:
        path.write_bytes(b"half")

    assert [removal.path for removal in pruned(folder).removals] == [str(path) for path in left]
    assert not any(path.exists() for path in left)


# Other format versions


def spared(folder: Path) -> dict[str, str]:
    return {Path(each.path).name: each.why for each in pruned(folder).spared}


def test_a_set_of_version_1_and_its_store_are_left_alone(tmp_path):
    shutil.copytree(VERSION_1, tmp_path, dirs_exist_ok=True)
    store = make_set(tmp_path, 1).store
    unused = make_set(tmp_path, 2, spec=OTHER_SPEC, name="other.h5")
    unused.path.unlink()
    before = sorted(path for path in tmp_path.rglob("*") if unused.store.folder not in (path, *path.parents))

    reasons = spared(tmp_path)

    assert sorted(tmp_path.rglob("*")) == before
    assert reasons == {
        "photos.h5": "a feature set of another format version",
        store.folder.name: f"{tmp_path / 'photos.h5'}, a feature set of another format version, may use it",
    }


def test_if_a_set_of_another_version_does_not_name_its_stores_all_are_left_alone(folder, features):
    unused = make_set(folder, 2, spec=OTHER_SPEC, name="other.h5")
    unused.path.unlink()
    with h5py.File(folder / "later.h5", "w") as file:
        file.attrs["format"] = np.bytes_(b"permafrost feature set")
        file.attrs["version"] = 99

    assert set(spared(folder)) == {"later.h5", features.store.folder.name, unused.store.folder.name}
    assert unused.store.shard_names()


def test_a_store_of_another_version_is_left_alone(folder, features, monkeypatch):
    features.path.unlink()
    monkeypatch.setattr(stores, "STORE_VERSION", 2)

    reasons = spared(folder)

    assert "is a store of another version: format version; expected 2, found 1" in reasons[WHOLE_SPEC.folder_name]
    assert (folder / "store" / WHOLE_SPEC.folder_name / "trunk.json").exists()


def test_a_store_whose_trunk_has_other_fields_is_left_alone(folder, features):
    path = features.store.folder / "trunk.json"
    description = json.loads(path.read_bytes())
    description["trunk"]["colors"] = "rgb"
    description["digest"] = "d" * 64
    path.write_bytes(json.dumps(description).encode())
    features.path.unlink()

    assert "store of another version" in spared(folder)[WHOLE_SPEC.folder_name]
    assert path.exists()
