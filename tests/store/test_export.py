"""A feature set exported to one plain file."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.errors import OptionError, ShardError, WriteError
from permafrost.store import export
from permafrost.store.export import export_features
from permafrost.store.feature_set import FeatureSet
from samples import make_rows, spec_with, write_parts

NAMES = ("a/1.jpg", "b/caf\udce9.jpg", "a/two\nlines.jpg", "b/é.jpg", "a/\u2028.jpg")


@pytest.fixture
def features(tmp_path) -> FeatureSet:
    spec = spec_with(dtype="float16")
    rows = make_rows(spec, len(NAMES))
    return write_parts(tmp_path, rows, [slice(None)], spec=spec, names=NAMES, class_names=("a", "bé"))


def expected(features: FeatureSet) -> dict[str, np.ndarray]:
    x, y = features.arrays()
    return {"X": x, "y": y}


@pytest.mark.parametrize("step", [1, 2**24])
def test_an_npz_file_has_all_arrays_and_needs_no_pickle(tmp_path, features, monkeypatch, step):
    monkeypatch.setattr(export, "_STEP_BYTES", step)

    export_features(features, tmp_path / "out.npz")

    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    for name, array in expected(features).items():
        assert np.array_equal(arrays.pop(name), array)
    assert arrays.pop("paths").tolist() == list(NAMES)
    assert arrays.pop("class_names").tolist() == ["a", "bé"]
    assert arrays.pop("splits").tolist() == ["train", "train", "validation", "train", "train"]
    assert not arrays


@pytest.mark.parametrize("step", [1, 2**24])
def test_an_hdf5_file_has_all_arrays_and_paths_byte_for_byte(tmp_path, features, monkeypatch, step):
    monkeypatch.setattr(export, "_STEP_BYTES", step)

    export_features(features, tmp_path / "out.h5")

    with h5py.File(tmp_path / "out.h5") as file:
        for name, array in expected(features).items():
            assert np.array_equal(file[name][...], array) and file[name].dtype == array.dtype
        assert file["paths"][...].tolist() == [os.fsencode(name) for name in NAMES]
        assert file["class_names"].asstr()[...].tolist() == ["a", "bé"]
        assert file["splits"].asstr()[...].tolist() == ["train", "train", "validation", "train", "train"]
        assert set(file) == {*expected(features), "paths", "class_names", "splits"}


@pytest.mark.parametrize("name", ["out.h5", "out.npz"])
def test_a_full_disk_leaves_the_old_file(tmp_path, features, monkeypatch, name):
    (tmp_path / name).write_bytes(b"old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match=rf"cannot write .*{name}: No space left on device"):
        export_features(features, tmp_path / name)

    assert (tmp_path / name).read_bytes() == b"old"
    assert not [path for path in os.listdir(tmp_path) if path.startswith(".tmp-")]


@pytest.mark.parametrize("name", ["out.h5", "out.npz"])
def test_a_damaged_shard_is_an_error_that_leaves_no_file(tmp_path, features, name):
    (shard,) = features.store.shard_names()
    (features.store.folder / shard).write_bytes(b"")

    with pytest.raises(ShardError):
        export_features(features, tmp_path / name)

    assert not (tmp_path / name).exists()


def test_another_ending_and_the_set_itself_are_refused(tmp_path, features):
    with pytest.raises(OptionError, match=r"exported to HDF5 or npz; expected \.h5 or \.npz, found .*out\.csv"):
        export_features(features, tmp_path / "out.csv")
    with pytest.raises(OptionError, match="is the set itself"):
        export_features(features, Path(features.path))
