"""All that is kept can be checked, and what no set needs can go."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.errors import SetError
from permafrost.store import compaction
from permafrost.store.compaction import compact
from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.store.maintenance import prune, verify
from permafrost.store.row_index import RowAddress, place_rows
from permafrost.store.set_file import write_set
from permafrost.store.shard import Rows
from permafrost.store.store import Store
from samples import WHOLE_SPEC, make_content, make_rows, spec_with

ENGINE = "keras/tensorflow"
OTHER_SPEC = spec_with(weights="c" * 64)


def keep(folder: Path, *seeds: int, name: str = "set.h5", spec=WHOLE_SPEC) -> FeatureSet:
    """A set of ten images a seed, a shard each."""
    store = Store.create(folder / "store", spec, about={"base_layers": []})
    parts = [make_rows(spec, 10, seed=seed) for seed in seeds]
    addresses = [RowAddress(store.append(part, engine=ENGINE), row) for part in parts for row in range(10)]
    shards, places = place_rows(addresses)
    rows = Rows(
        np.concatenate([part.digests for part in parts]),
        np.concatenate([part.views for part in parts]),
        (np.concatenate([part.features[0] for part in parts]),),
    )
    content = make_content(rows, shards, places, spec=spec, store=f"store/{spec.folder_name}")
    write_set(folder / name, content)
    return open_features(folder / name)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def features(folder) -> FeatureSet:
    return keep(folder, 0, 1)


def shard_path(features: FeatureSet, number: int = 0) -> Path:
    return features.store.folder / features.content.shards[number]


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def kinds(path: Path) -> list[str]:
    return [finding.kind for finding in verify(path).findings]


# Reading everything


def test_what_is_whole_has_no_findings_and_is_counted(folder, features):
    keep(folder, 2, spec=OTHER_SPEC, name="other.h5")

    found = verify(folder)

    assert (found.sets, found.shards, found.rows, found.faults, found.findings) == (2, 3, 30, 0, [])
    assert found.bytes == sum(path.stat().st_size for path in folder.glob("store/*/*.h5"))


def test_a_set_and_a_store_can_be_checked_alone(folder, features):
    keep(folder, 2, spec=OTHER_SPEC, name="other.h5")

    assert verify(features.path).shards == verify(features.store.folder).shards == 2
    with pytest.raises(SetError, match=r"no feature set, store or folder of them at .*gone"):
        verify(folder / "gone")


def test_a_damaged_shard_is_named(folder, features):
    flip(shard_path(features), 700)

    (finding,) = verify(folder).findings

    assert (finding.kind, finding.path) == ("damaged", str(shard_path(features)))
    assert "damaged shard" in finding.told


def test_a_missing_shard_is_named_with_the_set_that_needs_it(folder, features):
    shard_path(features).unlink()

    (finding,) = verify(folder).findings

    assert finding.kind == "missing"
    assert finding.path == str(shard_path(features)) and str(features.path) in finding.told


def test_a_shard_that_was_joined_with_others_is_not_missing(folder, features, monkeypatch):
    monkeypatch.setattr(compaction, "MANY", 1)
    compact(features.store)

    assert len(features.store.shard_names()) == 1
    assert verify(folder).findings == []


def test_another_trunks_shard_and_files_that_are_no_part_of_a_store_are_foreign(folder, features):
    other = keep(folder, 2, spec=OTHER_SPEC, name="other.h5")
    shutil.copy(shard_path(other), features.store.folder)
    (features.store.folder / "notes.txt").write_bytes(b"mine")

    assert kinds(features.store.folder) == ["foreign", "foreign"]


def test_rows_that_are_kept_twice_are_told_and_are_no_fault(folder, features):
    features.store.append(make_rows(WHOLE_SPEC, 10), engine="another")

    found = verify(folder)

    assert [finding.kind for finding in found.findings] == ["duplicate"]
    assert "10 of its rows are in other shards too" in found.findings[0].told
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


# Removing


def pruned(folder: Path, *, yes: bool = True):
    return prune(folder, confirm=lambda _: yes)[0]


def test_what_sets_refer_to_stays(folder, features):
    keep(folder, 1, 2, name="second.h5")
    keep(folder, 3, spec=OTHER_SPEC, name="third.h5")
    before = sorted(folder.rglob("*"))

    assert pruned(folder).removals == []
    assert sorted(folder.rglob("*")) == before


def test_shards_that_no_set_refers_to_go_and_their_room_is_told(folder, features):
    unused = features.store.folder / features.store.append(make_rows(WHOLE_SPEC, 10, seed=9), engine=ENGINE)
    size = unused.stat().st_size

    shown = pruned(folder, yes=False)

    assert [(removal.path, removal.bytes) for removal in shown.removals] == [(str(unused), size)]
    assert shown.bytes == size and unused.exists()
    pruned(folder)
    assert not unused.exists()
    assert len(features.arrays()[0]) == 20


def test_a_store_to_which_no_set_refers_goes_but_not_what_others_put_there(folder, features):
    unused = keep(folder, 3, spec=OTHER_SPEC, name="other.h5").store.folder
    keep(folder, 4, spec=spec_with(dtype="float16"), name="third.h5")
    for name in ("other.h5", "third.h5"):
        (folder / name).unlink()
    (unused / "notes.txt").write_bytes(b"mine")

    pruned(folder)

    assert sorted(os.listdir(folder / "store")) == sorted([WHOLE_SPEC.folder_name, OTHER_SPEC.folder_name])
    assert os.listdir(unused) == ["notes.txt"]
    assert len(features.arrays()[0]) == 20


def test_shards_into_which_a_sets_rows_were_joined_stay(folder, features, monkeypatch):
    x, _ = features.arrays()
    monkeypatch.setattr(compaction, "MANY", 1)
    compact(features.store)

    assert pruned(folder).removals == []
    assert np.array_equal(open_features(features.path).arrays()[0], x)


def test_damaged_shards_that_no_set_needs_any_more_go(folder, features):
    again = features.store.append(make_rows(WHOLE_SPEC, 10, seed=9), engine=ENGINE)
    flip(features.store.folder / again, 700)

    pruned(folder)

    assert verify(folder).findings == []


def test_a_store_in_which_an_extraction_is_at_work_is_left_alone(folder, features):
    features.store.append(make_rows(WHOLE_SPEC, 10, seed=9), engine=ENGINE)
    at_work = Store.find(folder / "store", WHOLE_SPEC, hold=True)

    left = pruned(folder)

    assert (left.removals, left.busy) == ([], [str(features.store.folder)])
    del at_work
    assert len(pruned(folder).removals) == 1


def test_nothing_goes_while_a_set_cannot_be_read(folder, features):
    features.store.append(make_rows(WHOLE_SPEC, 10, seed=9), engine=ENGINE)
    features.path.write_bytes(features.path.read_bytes()[:-100])

    with pytest.raises(SetError, match=r"nothing can be removed while it is not known what .*set\.h5 refers to"):
        pruned(folder)


def test_a_plain_hdf5_file_beside_the_sets_is_no_hindrance(folder, features):
    with h5py.File(folder / "plain.h5", "w") as file:
        file["X"] = np.zeros(3)

    assert pruned(folder).removals == []
    assert (folder / "plain.h5").exists()


def test_what_dead_processes_left_goes(folder, features):
    left = [folder / ".tmp-4194305-0123abcd-x.h5", features.store.folder / ".tmp-4194305-0123abcd-y.h5"]
    for path in left:
        path.write_bytes(b"half")

    assert [removal.path for removal in pruned(folder).removals] == [str(path) for path in left]
    assert not any(path.exists() for path in left)
