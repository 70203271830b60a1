"""A feature set: the rows of one dataset in one store, as arrays and batches."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from permafrost.errors import OptionError, SetError, ShardError, StoreError, VersionError
from permafrost.images.splits import SPLITS
from permafrost.store.description import describe_set
from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.store.hdf5 import read_text, write_text
from permafrost.store.memory_storage import MemoryStorage
from permafrost.store.row_index import RowAddress, place_rows
from permafrost.store.set_content import SetContent
from permafrost.store.set_file import checksum, write_set
from permafrost.store.set_rows import SetRows
from permafrost.store.shard import Rows
from permafrost.store.storage import StoredObject
from permafrost.store.store import DESCRIPTION_FILE, Store
from permafrost.store.verification import set_files
from samples import WHOLE_SPEC, make_content, make_rows, spec_with

COUNT = 12
PER_EXAMPLE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def write_features(folder: Path, rows: Rows, spec=WHOLE_SPEC, **changes) -> SetContent:
    """Commit rows as two shards, and write the set `set.h5` of them."""
    store = Store.create(folder / "store", spec, about={"base_layers": []})
    half = len(rows) // 2
    addresses = []
    for part in (slice(half, None), slice(half)):
        piece = rows.take(part)
        shard = store.append(piece, engine="keras/tensorflow")
        addresses = [RowAddress(shard, row) for row in range(len(piece))] + addresses
    shards, places = place_rows(addresses)
    content = make_content(rows, shards, places, spec=spec, store=f"store/{spec.folder_name}", **changes)
    write_set(folder / "set.h5", content)
    return content


@pytest.fixture
def rows() -> Rows:
    return make_rows(WHOLE_SPEC, COUNT)


@pytest.fixture
def content(tmp_path, rows) -> SetContent:
    return write_features(tmp_path, rows)


@pytest.fixture
def features(tmp_path, content) -> FeatureSet:
    return open_features(tmp_path / "set.h5")


@pytest.mark.parametrize("name", [".", "..", "gone.h5", "gone/set.h5", "store", ".hidden.h5"])
def test_only_a_visible_file_can_be_a_feature_set(tmp_path, content, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copy("set.h5", ".hidden.h5")

    with pytest.raises(SetError, match=re.escape(f"no feature set at {Path(name)}. Make one")):
        open_features(name)


def test_only_a_set_in_a_local_folder_has_a_path(features, content):
    place = StoredObject(MemoryStorage(), "set.h5")

    with pytest.raises(StoreError, match=r"memory://.*/set\.h5 is not a local file"):
        _ = FeatureSet(place, content).path


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)

    with pytest.raises(SetError, match=r"cannot list the feature sets in .*: Permission denied"):
        set_files(tmp_path)


# Arrays and batches


@pytest.mark.parametrize("split", [None, *SPLITS])
def test_arrays_labels_paths_names_and_digests_are_in_one_order(features, rows, content, split):
    chosen = features.rows(split)

    x, y = features.arrays(split)

    assert np.array_equal(x, rows.features[0][chosen]) and x.dtype == np.float32
    assert np.array_equal(y, content.labels[chosen]) and y.dtype == np.int64
    assert np.array_equal(y, features.labels(split))
    assert features.names(split) == [content.names[row] for row in chosen]
    assert features.paths(split) == [f"/data/photos/{name}" for name in features.names(split)]
    assert np.array_equal(features.digests(split), rows.digests[chosen])


def test_each_split_has_its_rows(features):
    assert features.rows("train").tolist() == [0, 1, 3, 4, 5, 7, 8, 9, 11]
    assert features.rows("validation").tolist() == [2, 6, 10]
    assert features.rows("test").tolist() == []
    assert features.rows().tolist() == list(range(COUNT))


def test_a_split_without_images_gives_empty_arrays_and_no_batches(features):
    x, y = features.arrays("test")

    assert x.shape == (0, 2, 3) and y.shape == (0,)
    assert list(features.batches("test")) == []


def test_an_unknown_split_is_refused_naming_those_there_are(features):
    for act in (features.arrays, features.labels, features.paths, features.rows):
        with pytest.raises(OptionError, match="no such split; expected train, validation, test, found dev"):
            act("dev")


@PER_EXAMPLE
@given(wanted=st.lists(st.integers(0, COUNT - 1), max_size=30))
def test_features_are_in_the_order_of_the_rows_requested(shared_features, wanted):
    expected = make_rows(WHOLE_SPEC, COUNT).features[0][wanted]

    assert np.array_equal(shared_features.features(np.array(wanted, np.int64)), expected)


@pytest.fixture(scope="module")
def shared_features(tmp_path_factory) -> FeatureSet:
    """A set that no test changes."""
    folder = tmp_path_factory.mktemp("features")
    write_features(folder, make_rows(WHOLE_SPEC, COUNT))
    return open_features(folder / "set.h5")


@PER_EXAMPLE
@given(batch_size=st.integers(1, 20), split=st.sampled_from([None, *SPLITS]), shuffle=st.booleans())
def test_batches_contain_each_row_once(shared_features, batch_size, split, shuffle):
    x, y = shared_features.arrays(split)

    batches = list(shared_features.batches(split, batch_size=batch_size, shuffle=shuffle))

    assert [len(labels) for _, labels in batches[:-1]] == [batch_size] * (len(batches) - 1)
    given_rows = [(row.tobytes(), label) for part, labels in batches for row, label in zip(part, labels, strict=True)]
    expected = [(row.tobytes(), label) for row, label in zip(x, y, strict=True)]
    if shuffle:
        given_rows, expected = sorted(given_rows), sorted(expected)
    assert given_rows == expected


def test_the_seed_decides_the_order_of_shuffled_batches(shared_features):
    first, again, other = (
        np.concatenate([x for x, _ in shared_features.batches(shuffle=True, batch_size=5, seed=seed)])
        for seed in (1, 1, 2)
    )

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_order_of_shuffled_batches_does_not_depend_on_where_rows_lie(tmp_path, features, rows, content):
    order = np.random.default_rng(0).permutation(COUNT)
    store = Store.create(tmp_path / "other" / "store", WHOLE_SPEC, about={})
    shard = store.append(rows.take(order), engine="none")
    places = np.stack([np.zeros(COUNT, np.int64), np.argsort(order)], axis=1)
    write_set(tmp_path / "other" / "set.h5", dataclasses.replace(content, shards=(shard,), places=places))
    elsewhere = open_features(tmp_path / "other" / "set.h5")

    batches = zip(features.batches(shuffle=True, seed=3), elsewhere.batches(shuffle=True, seed=3), strict=True)

    assert all(np.array_equal(here, there) for (here, _), (there, _) in batches)


def test_shuffled_batches_are_read_in_large_pieces_of_the_disk(features, monkeypatch):
    row_bytes = 4 * 6
    monkeypatch.setattr("permafrost.store.feature_set.SHUFFLE_BYTES", 4 * 6 * row_bytes)  # Two pieces of six rows.
    monkeypatch.setattr("permafrost.store.streaming.CHUNK_BYTES", 2 * row_bytes)
    sizes: list[int] = []
    read = SetRows.read

    def counted(self, rows: np.ndarray, view: int) -> np.ndarray:
        sizes.append(len(rows))
        return read(self, rows, view)

    monkeypatch.setattr(SetRows, "read", counted)
    expected = dict(zip(map(bytes, features.arrays()[0]), features.labels(), strict=True))
    sizes.clear()

    batches = list(features.batches(shuffle=True, batch_size=1))

    assert len(batches) == COUNT
    assert {bytes(x[0]): y[0] for x, y in batches} == expected
    assert [size for size in sizes if size] == [6, 6]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_1_is_refused(shared_features, size):
    with pytest.raises(OptionError, match=rf"a batch has at least one image; expected 1 or more, found {size}"):
        next(shared_features.batches(batch_size=size))


def test_features_stored_as_float16_are_read_as_float32(tmp_path):
    spec = spec_with(dtype="float16")
    half = make_rows(spec, 5)
    write_features(tmp_path, half, spec)

    x, _ = open_features(tmp_path / "set.h5").arrays()

    assert half.features[0].dtype == np.float16
    assert x.dtype == np.float32
    assert np.array_equal(x, half.features[0])


# Its file


@PER_EXAMPLE
@given(
    names=st.lists(st.binary(max_size=12), min_size=COUNT, max_size=COUNT),
    classes=st.lists(st.text(max_size=8), min_size=2, max_size=2),
    skipped=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=3),
)
def test_a_set_is_read_as_it_was_written_whatever_bytes_are_in_the_names(tmp_path, content, names, classes, skipped):
    changed = dataclasses.replace(
        content,
        names=tuple(os.fsdecode(name) for name in names),
        class_names=tuple(classes),
        skipped=tuple(skipped),
        root="/data/caf\udce9",
    )

    write_set(tmp_path / "set.h5", changed)
    back = open_features(tmp_path / "set.h5")

    assert [os.fsencode(name) for name in back.names()] == names
    assert back.class_names == classes
    assert back.skipped == tuple(skipped)
    assert back.root == changed.root
    assert (back.spec, back.about, len(back)) == (content.spec, content.about, COUNT)


def test_equal_contents_give_equal_files(tmp_path, content):
    write_set(tmp_path / "again.h5", content)

    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "set.h5").read_bytes()


def test_a_set_and_its_store_can_be_moved_together(tmp_path, features):
    x, _ = features.arrays()
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "set.h5", tmp_path / "elsewhere" / "renamed.h5")
    shutil.move(tmp_path / "store", tmp_path / "elsewhere" / "store")

    moved = open_features(tmp_path / "elsewhere" / "renamed.h5")

    assert np.array_equal(moved.arrays()[0], x)


def test_a_set_opened_by_a_relative_path_is_read_after_a_change_of_folder(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = open_features("set.h5")
    monkeypatch.chdir("/")

    assert len(opened.arrays()[0]) == COUNT
    assert opened.path == tmp_path / "set.h5"


def test_a_set_can_be_sent_to_another_process(features):
    thawed = pickle.loads(pickle.dumps(features))

    np.testing.assert_array_equal(thawed.arrays()[0], features.arrays()[0])


def test_the_digest_covers_trunk_contents_labels_and_splits_and_nothing_else(tmp_path, features, content, rows):
    def digest_of(**changes) -> str:
        return FeatureSet(tmp_path / "x.h5", dataclasses.replace(content, **changes)).digest

    assert digest_of(names=("x",) * COUNT, root="/else", skipped=()) == features.digest
    others = [
        digest_of(labels=1 - content.labels),
        digest_of(splits=2 - content.splits),
        digest_of(digests=make_rows(WHOLE_SPEC, COUNT, seed=1).digests),
        digest_of(class_names=("b", "a")),
        digest_of(spec=spec_with(weights="c" * 64)),
    ]
    assert len({features.digest, *others}) == 6


def test_a_set_is_described_as_json_and_in_one_line(tmp_path, features):
    description = describe_set(features)

    assert description["images"] == COUNT
    assert description["splits"]["train"] == {"n": 9, "groups": None, "classes": {"a": 3, "b": 6}}
    assert description["splits"]["test"]["n"] == 0
    assert description["shape"] == [2, 3]
    assert description["key"] == WHOLE_SPEC.key
    assert description["shards"] == 2
    assert description["skipped"] == [{"path": "a/notes.txt", "reason": "not an image (.txt)"}]
    assert "train 9, validation 3, test 0" in repr(features)


# Groups


@pytest.fixture
def grouped(tmp_path, rows) -> FeatureSet:
    """Groups 5 and 7 of three images each, the second with images in two splits; six images stand alone."""
    write_features(tmp_path, rows, groups=np.array([5, 5, -1, 5, 7, -1, 7, 7] + [-1] * 4))
    return open_features(tmp_path / "set.h5")


def test_a_set_remembers_the_groups_of_its_images(grouped, features):
    assert grouped.groups().tolist() == [5, 5, -1, 5, 7, -1, 7, 7, -1, -1, -1, -1]
    assert grouped.groups("validation").tolist() == [-1, 7, -1]


def test_groups_are_counted_per_split_and_those_in_several_splits_are_warned_of(grouped):
    description = describe_set(grouped)

    assert {split: each["groups"] for split, each in description["splits"].items()} == {
        "train": 2,
        "validation": 1,
        "test": 0,
    }
    assert description["warnings"] == [
        "1 group is in more than one split, as the dataset gives them, which inflates the score"
    ]


def test_groups_are_part_of_the_digest(tmp_path, rows, grouped):
    write_features(tmp_path, rows)
    assert open_features(tmp_path / "set.h5").groups() is None
    assert open_features(tmp_path / "set.h5").digest != grouped.digest


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (np.full(COUNT, -2), "groups has numbers below -1"),
        (np.zeros(COUNT - 1, np.int64), r"groups has shape \(11,\) instead of \(12,\)"),
    ],
)
def test_groups_that_cannot_be_are_refused(tmp_path, rows, groups, reason):
    write_features(tmp_path, rows, groups=groups)

    with pytest.raises(SetError, match=rf"damaged feature set .*set\.h5: {reason}"):
        open_features(tmp_path / "set.h5")


# Errors


def test_a_missing_set_is_named(tmp_path):
    with pytest.raises(SetError, match=r"no feature set at .*gone\.h5\. Make one with extract"):
        open_features(tmp_path / "gone.h5")


def test_a_missing_store_is_named_with_what_to_do(tmp_path, features):
    shutil.rmtree(tmp_path / "store")

    line = r"the store of .*set\.h5 cannot be opened: no store at .*\. Move the set and the folder `store` together"
    with pytest.raises(SetError, match=line):
        open_features(tmp_path / "set.h5")
    with pytest.raises(SetError, match=line):
        features.arrays()


def test_a_store_of_another_trunk_is_refused_naming_the_field(tmp_path, features):
    other = Store.create(tmp_path / "others", spec_with(pooling="avg"), about={})
    shutil.copy(other.folder / DESCRIPTION_FILE, features.store.folder / DESCRIPTION_FILE)

    with pytest.raises(SetError, match=r"the store of .*set\.h5 has changed: pooling; expected none, found avg"):
        open_features(tmp_path / "set.h5")


def test_a_missing_shard_is_named_when_its_rows_are_read(features):
    shard = features.store.shard_names()[0]
    (features.store.folder / shard).unlink()

    with pytest.raises(ShardError, match=rf"missing shard .*{shard}"):
        features.arrays()


def test_a_shard_in_the_place_of_another_is_detected(features):
    first, second = (features.store.folder / name for name in features.store.shard_names())
    shutil.copy(first, second)

    with pytest.raises(ShardError, match="it holds other images' rows"):
        features.arrays()


def test_every_flipped_bit_in_a_sets_file_is_detected_or_changes_nothing(tmp_path, features, content):
    path = tmp_path / "set.h5"
    whole = path.read_bytes()
    refused = 0

    for bit in np.random.default_rng(0).permutation(len(whole) * 8)[:300].tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            opened = open_features(path)
        except SetError:
            refused += 1
            continue
        assert opened.digest == features.digest
        assert opened.names() == features.names()
        assert describe_set(opened) == describe_set(features)

    assert refused > 250


@pytest.mark.parametrize("fraction", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, content, fraction):
    path = tmp_path / "set.h5"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])

    with pytest.raises(SetError, match=r"(not a|damaged) feature set:? .*set\.h5"):
        open_features(path)


@pytest.mark.parametrize("data", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n"])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, data):
    (tmp_path / "set.h5").write_bytes(data)

    with pytest.raises(SetError, match=r"not a feature set: .*set\.h5; .*Run extract again"):
        open_features(tmp_path / "set.h5")


def test_an_hdf5_file_of_another_format_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = np.zeros(3)

    with pytest.raises(SetError, match=r"not a feature set: .*; expected permafrost feature set, found no format"):
        open_features(tmp_path / "other.h5")


def test_a_shard_is_refused_as_a_set(features):
    with pytest.raises(SetError, match=r"expected permafrost feature set, found permafrost shard"):
        open_features(features.store.folder / features.store.shard_names()[0])


def test_a_set_of_a_newer_version_is_refused_naming_both_versions(tmp_path, content):
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        file.attrs["version"] = 99

    with pytest.raises(
        VersionError, match=r"set\.h5 is a feature set of a newer version; expected 3, found 99\. Update permafrost"
    ):
        open_features(tmp_path / "set.h5")


NAMES = ["digests", "labels", "splits", "places", "path_bytes", "path_offsets", "description"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "forgery", ["soft link", "external link", "external data", "virtual data", "too much", "nothing"]
)
def test_datasets_other_than_plain_arrays_are_refused(tmp_path, content, name, forgery):
    path, outside = tmp_path / "set.h5", tmp_path / "outside.h5"
    shutil.copy(path, outside)
    with h5py.File(path, "r+") as file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        if forgery == "soft link":
            file["target"] = np.zeros(shape, dtype)
            file[name] = h5py.SoftLink("/target")
        elif forgery == "external link":
            file[name] = h5py.ExternalLink("outside.h5", f"/{name}")
        elif forgery == "external data":
            file.create_dataset(name, shape, dtype, external=[(str(outside), 0, h5py.h5f.UNLIMITED)])
        elif forgery == "virtual data":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(outside, name, shape)
            file.create_virtual_dataset(name, layout)
        elif forgery == "too much":
            file.create_dataset(name, (2**40, *shape[1:]), dtype)

    with pytest.raises(
        SetError, match=rf"damaged feature set .*set\.h5: {name} (is not a plain data|claims more than)"
    ):
        open_features(path)


def test_text_of_variable_length_is_not_read(tmp_path, content):
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        assert read_text(file, "format")
        del file.attrs["format"]
        file.attrs["format"] = "permafrost feature set"

    with pytest.raises(SetError, match="attribute format is not a string of fixed length"):
        open_features(tmp_path / "set.h5")


def test_an_incomplete_description_is_refused_even_with_a_valid_checksum(tmp_path, content):
    with h5py.File(tmp_path / "set.h5", "r+") as file:
        del file["description"]
        file["description"] = np.frombuffer(b'{"trunk": {}}', np.uint8)
        write_text(file, "checksum", checksum(file))

    with pytest.raises(VersionError):
        open_features(tmp_path / "set.h5")


# Addresses


@given(st.lists(st.builds(RowAddress, st.sampled_from(["a.h5", "b.h5", "c.h5"]), st.integers(0, 9))))
def test_placed_rows_name_each_shard_once(addresses):
    shards, places = place_rows(addresses)

    assert len(set(shards)) == len(shards)
    assert [RowAddress(shards[shard], row) for shard, row in places.tolist()] == addresses
