"""Shards are immutable, named by their content, and refused when damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from permafrost.errors import ShardError, StoreError, WriteError
from permafrost.store.hdf5 import read_text, write_text
from permafrost.store.row_index import RowAddress, RowIndex
from permafrost.store.shard import FORMAT, Rows, row_checksums
from permafrost.store.store import DESCRIPTION_FILE, Store
from samples import WHOLE_SPEC, make_rows, spec_with

ENGINE = "keras/tensorflow"
TWO = spec_with(shapes=((2, 3), (4,)), cut="two")
"""A trunk whose cut crosses two tensors."""

PER_EXAMPLE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def make_store(parent: Path, spec=WHOLE_SPEC) -> Store:
    return Store.create(parent, spec, about={"libraries": {"keras": "3"}, "base_layers": ["in", "top"]})


@pytest.fixture
def store(tmp_path) -> Store:
    return make_store(tmp_path)


def read_all(store: Store, shard: str, count: int, rows=None, **options) -> tuple[np.ndarray, ...]:
    """Return rows of a shard in the order of `rows`; values that were never read are -99."""
    rows = np.arange(count) if rows is None else np.asarray(rows)
    out = tuple(np.full((len(rows), *shape), -99, np.float32) for shape in store.spec.shapes)
    order = np.argsort(rows, kind="stable")
    store.read(shard, rows[order], out, at=order, **options)
    return out


# Rows come back


@PER_EXAMPLE
@given(
    count=st.integers(1, 9),
    dtype=st.sampled_from(["float32", "float16"]),
    shapes=st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=3).map(tuple),
    data=st.data(),
)
def test_rows_come_back_bit_for_bit_in_any_order_and_any_number_of_times(tmp_path, count, dtype, shapes, data):
    store = make_store(tmp_path, spec_with(dtype=dtype, shapes=shapes))
    rows = make_rows(store.spec, count, seed=data.draw(st.integers(0, 99)))
    wanted = data.draw(st.lists(st.integers(0, count - 1), max_size=12))
    shard = store.append(rows, engine=ENGINE)

    tensors = read_all(store, shard, count, np.array(wanted, np.int64))

    for tensor, features in zip(tensors, rows.features, strict=True):
        assert np.array_equal(tensor, features[wanted].astype(np.float32))
    digests, views = store.read_index(shard)
    assert np.array_equal(digests, rows.digests) and np.array_equal(views, rows.views)
    assert store.verify(shard) == count


def test_unusual_numbers_come_back_bit_for_bit(store):
    odd = np.array([-0.0, 1e-45, np.finfo(np.float32).max, np.float32(1) / 3, 2**-126, 0], np.float32)
    shard = store.append(dataclasses.replace(make_rows(WHOLE_SPEC, 1), features=(odd.reshape(1, 2, 3),)), engine=ENGINE)

    (tensor,) = read_all(store, shard, 1)

    assert tensor.tobytes() == odd.tobytes()


def test_a_shards_name_is_the_hash_of_its_bytes_and_equal_rows_give_equal_files(tmp_path):
    first, second = (make_store(tmp_path / name) for name in "ab")
    rows = make_rows(WHOLE_SPEC, 5)

    names = [store.append(rows, engine=ENGINE) for store in (first, second, first)]

    assert len(set(names)) == 1
    assert first.shard_names() == names[:1]
    data = (first.folder / names[0]).read_bytes()
    assert names[0] == hashlib.sha256(data).hexdigest()[:32] + ".h5"
    assert data == (second.folder / names[0]).read_bytes()


def test_a_shard_records_its_engine_and_nothing_of_time_or_machine(store):
    shard = store.append(make_rows(WHOLE_SPEC, 2), engine=ENGINE)

    with h5py.File(store.folder / shard) as file:
        assert read_text(file, "engine") == ENGINE
        assert read_text(file, "trunk") == WHOLE_SPEC.digest
        assert read_text(file, "format") == FORMAT
        assert set(file.attrs) == {"engine", "trunk", "format", "version", "index_checksum"}
        assert set(file) == {"digests", "view", "checksums", "features"}
    headers = (store.folder / shard).read_bytes().split(b"OHDR\2")[1:]
    assert len(headers) == 5
    assert not any(header[0] & 0x20 for header in headers)  # The flag of HDF5's object headers that have times.


def test_strings_are_stored_under_a_checksum(store):
    # A flipped bit in HDF5's heap of variable strings makes it read for ever.
    shard = store.append(make_rows(WHOLE_SPEC, 2), engine=ENGINE)

    assert b"GCOL" not in (store.folder / shard).read_bytes()


def test_a_shard_is_as_the_page_of_the_format_describes_it(tmp_path):
    # Written from `features/README.md`, not from the code.
    store = make_store(tmp_path, TWO)
    rows = make_rows(TWO, 3)
    shard = store.append(rows, engine=ENGINE)

    with h5py.File(store.folder / shard) as file:
        layout = [
            ["checksums", [3, 2], "<u8"],
            ["digests", [3, 32], "|u1"],
            ["features", [3, 2, 3], "<f4"],
            ["features_1", [3, 4], "<f4"],
            ["view", [3], "<i4"],
        ]
        text = json.dumps([layout, ["permafrost shard", "1", TWO.digest, ENGINE]], separators=(",", ":"))
        index = text.encode() + b"".join(file[name][...].tobytes() for name in ("digests", "view", "checksums"))
        assert file.attrs["index_checksum"].decode() == xxhash.xxh3_128_hexdigest(index)
        for number, name in enumerate(("features", "features_1")):
            expected = [xxhash.xxh3_64_intdigest(row.tobytes()) for row in file[name][...]]
            assert file["checksums"][:, number].tolist() == expected


def test_row_checksums_are_pinned():
    # A change here makes every cached row unreadable.
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)

    assert row_checksums(rows).tolist() == [7541795801147682588, 17314802132487049001]
    assert np.array_equal(row_checksums(rows.astype(">f4")), row_checksums(rows))
    assert np.array_equal(row_checksums(np.asfortranarray(rows)), row_checksums(rows))


def test_temporary_and_foreign_files_are_not_listed(store):
    shard = store.append(make_rows(WHOLE_SPEC, 1), engine=ENGINE)
    (store.folder / f".tmp-1-abc-{shard}").write_bytes(b"half")

    (store.folder / "notes.h5").write_bytes(b"mine")

    assert store.shard_names() == [shard]


def test_a_full_disk_leaves_nothing_of_a_shard_and_all_of_those_before(store, monkeypatch):
    rows = make_rows(WHOLE_SPEC, 3)
    shard = store.append(rows, engine=ENGINE)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match=r"cannot write .*\.h5: No space left on device"):
        store.append(make_rows(WHOLE_SPEC, 3, seed=1), engine=ENGINE)

    assert sorted(os.listdir(store.folder)) == sorted([shard, DESCRIPTION_FILE])
    assert np.array_equal(read_all(store, shard, 3)[0], rows.features[0])


# Damage


def outcome(store: Store, shard: str, rows: Rows) -> str:
    """Read a shard, and return `right` or `refused`; a wrong value fails the test."""
    try:
        tensors = read_all(store, shard, len(rows))
        digests, views = store.read_index(shard)
    except ShardError:
        return "refused"
    for tensor, features in zip(tensors, rows.features, strict=True):
        assert np.array_equal(tensor, features)
    assert np.array_equal(digests, rows.digests) and np.array_equal(views, rows.views)
    return "right"


def test_every_flipped_bit_is_detected_and_no_wrong_value_is_read(tmp_path):
    store = make_store(tmp_path, TWO)
    rows = make_rows(TWO, 3)
    shard = store.append(rows, engine=ENGINE)
    path = store.folder / shard
    whole = path.read_bytes()
    bits = np.random.default_rng(0).permutation(len(whole) * 8)[:400].tolist()
    # Some more among the first, where the layout lies, and the last.
    bits += [byte * 8 + byte % 8 for byte in (*range(0, 400, 2), *range(len(whole) - 60, len(whole)))]

    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=rf"damaged shard .*{shard}"):
            store.verify(shard)
        outcome(store, shard, rows)


@PER_EXAMPLE
@given(data=st.data())
def test_overwritten_bytes_are_detected_and_no_wrong_value_is_read(tmp_path, data):
    store = make_store(tmp_path)
    rows = make_rows(WHOLE_SPEC, 4)
    path = store.folder / store.append(rows, engine=ENGINE)
    whole = path.read_bytes()
    try:
        start = data.draw(st.integers(0, len(whole) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=64))
        damaged = (whole[:start] + noise + whole[start + len(noise) :])[: len(whole)]
        path.write_bytes(damaged)

        if damaged != whole:
            with pytest.raises(ShardError):
                store.verify(path.name)
        outcome(store, path.name, rows)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("fraction", [0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_shard_is_refused(store, fraction):
    rows = make_rows(WHOLE_SPEC, 50)
    path = store.folder / store.append(rows, engine=ENGINE)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])

    for act in (store.verify, store.read_index, lambda name: read_all(store, name, 50)):
        with pytest.raises(
            ShardError, match=r"damaged shard .*\.h5: .*Run the same extract again: it computes what is"
        ):
            act(path.name)


def test_a_missing_shard_is_named_with_what_to_do(store):
    shard = store.append(make_rows(WHOLE_SPEC, 2), engine=ENGINE)
    (store.folder / shard).unlink()

    for act in (store.verify, store.read_index, lambda name: read_all(store, name, 2)):
        with pytest.raises(ShardError, match=rf"missing shard .*{shard}\. Run the same extract again"):
            act(shard)


def test_another_trunks_shard_is_refused_with_both_digests(tmp_path, store):
    other = make_store(tmp_path, spec_with(weights="c" * 64))
    shard = other.append(make_rows(WHOLE_SPEC, 2), engine=ENGINE)
    (other.folder / shard).rename(store.folder / shard)

    for act in (store.verify, store.read_index, lambda name: read_all(store, name, 2)):
        with pytest.raises(
            ShardError, match=rf"foreign shard .*: trunk; expected {WHOLE_SPEC.digest}, found {other.spec.digest}"
        ):
            act(shard)


def test_an_intact_shard_under_another_name_is_detected_if_the_images_are_known(store):
    rows, others = make_rows(WHOLE_SPEC, 3), make_rows(WHOLE_SPEC, 3, seed=1)
    first, second = (store.append(each, engine=ENGINE) for each in (rows, others))
    (store.folder / second).rename(store.folder / first)

    with pytest.raises(ShardError, match="it holds other images' rows"):
        read_all(store, first, 3, digests=rows.digests)
    with pytest.raises(ShardError, match="its content does not match its name"):
        store.verify(first)


@pytest.mark.parametrize("wanted", [[4], [3, 4], [-1], [0, 99], [-1, 0]])
def test_rows_that_a_shard_does_not_have_are_refused(store, wanted):
    shard = store.append(make_rows(WHOLE_SPEC, 4), engine=ENGINE)

    with pytest.raises(ShardError, match=r"damaged shard .*: it has no rows .*, only 4"):
        read_all(store, shard, 4, wanted)


# Hostile files


def forge(store: Store, name: str, forging) -> str:
    """Return the name of a shard in which `forging` replaces the dataset `name`."""
    shard = store.append(make_rows(store.spec, 3), engine=ENGINE)
    with h5py.File(store.folder / shard, "r+", libver=("v110", "v110")) as file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        forging(file, name, shape, dtype)
    return shard


def soft_link(file, name, shape, dtype):
    file[f"{name}_target"] = np.zeros(shape, dtype)
    file[name] = h5py.SoftLink(f"/{name}_target")


def external_link(file, name, shape, dtype):
    outside = Path(file.filename).parent / "outside.hdf5"
    with h5py.File(outside, "w") as other:
        other[name] = np.zeros(shape, dtype)
    file[name] = h5py.ExternalLink(str(outside), f"/{name}")


def external_data(file, name, shape, dtype):
    secret = Path(file.filename).parent / "secret.bin"
    secret.write_bytes(bytes(int(np.prod(shape)) * dtype.itemsize))
    file.create_dataset(name, shape, dtype, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual_data(file, name, shape, dtype):
    outside = Path(file.filename).parent / "outside.hdf5"
    with h5py.File(outside, "w") as other:
        other[name] = np.zeros(shape, dtype)
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(outside, name, shape)
    file.create_virtual_dataset(name, layout)


def group(file, name, shape, dtype):
    file.create_group(name)


def strings(file, name, shape, dtype):
    file[name] = ["text"] * shape[0]


def other_shape(file, name, shape, dtype):
    file[name] = np.zeros((*shape, 1), dtype)


def other_dtype(file, name, shape, dtype):
    file[name] = np.zeros(shape, np.float64)


def too_much(file, name, shape, dtype):
    file.create_dataset(name, (2**40, *shape[1:]), dtype)


def nothing(file, name, shape, dtype):
    pass


FORGERIES = [
    soft_link,
    external_link,
    external_data,
    virtual_data,
    group,
    strings,
    other_shape,
    other_dtype,
    too_much,
    nothing,
]


@pytest.mark.parametrize("forging", FORGERIES)
@pytest.mark.parametrize("name", ["digests", "view", "checksums", "features"])
def test_datasets_of_another_kind_or_shape_are_refused(store, name, forging):
    shard = forge(store, name, forging)

    with pytest.raises(ShardError, match=rf"damaged shard .*{shard}"):
        store.read_index(shard)
    with pytest.raises(ShardError):
        read_all(store, shard, 3)


@pytest.mark.parametrize("name", ["format", "trunk", "engine", "index_checksum", "version"])
@pytest.mark.parametrize("value", ["of variable length", np.bytes_("other"), 7, None])
def test_attributes_of_another_value_or_kind_are_refused(store, name, value):
    shard = store.append(make_rows(WHOLE_SPEC, 3), engine=ENGINE)
    with h5py.File(store.folder / shard, "r+", libver=("v110", "v110")) as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    with pytest.raises(ShardError, match=r"(damaged|foreign) shard"):
        store.read_index(shard)


def test_an_unknown_dataset_in_a_shard_is_refused(store):
    shard = store.append(make_rows(WHOLE_SPEC, 3), engine=ENGINE)
    with h5py.File(store.folder / shard, "r+", libver=("v110", "v110")) as file:
        file["more"] = [1]

    with pytest.raises(ShardError, match=r"holds \['checksums', 'digests', 'features', 'more', 'view'\] instead of"):
        store.read_index(shard)


def test_only_text_of_fixed_length_is_read(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        write_text(file, "fixed", "é")
        file.attrs["variable"] = "text"
        file.attrs["number"] = 3

        assert read_text(file, "fixed") == "é"
        for name in ("variable", "number"):
            with pytest.raises(ValueError, match=f"attribute {name} is not a string of fixed length"):
                read_text(file, name)
        with pytest.raises(KeyError):
            read_text(file, "gone")


# The store's description


def test_a_store_opens_with_the_description_that_it_was_made_with(store):
    opened = Store(store.folder)

    assert opened.spec == WHOLE_SPEC
    assert opened.about == {"libraries": {"keras": "3"}, "base_layers": ["in", "top"]}
    assert store.folder.name == WHOLE_SPEC.folder_name


def test_creating_an_existing_store_opens_it_unchanged(tmp_path, store):
    shard = store.append(make_rows(WHOLE_SPEC, 2), engine=ENGINE)
    before = (store.folder / DESCRIPTION_FILE).read_bytes()

    again = Store.create(tmp_path, WHOLE_SPEC, about={"libraries": {"keras": "4"}, "base_layers": []})

    assert again.shard_names() == [shard]
    assert (store.folder / DESCRIPTION_FILE).read_bytes() == before


def test_two_stores_under_one_parent_do_not_see_each_other(tmp_path, store):
    other = make_store(tmp_path, spec_with(pooling="avg"))

    shard = store.append(make_rows(WHOLE_SPEC, 2), engine=ENGINE)

    assert store.folder.parent == other.folder.parent
    assert other.shard_names() == []
    assert store.shard_names() == [shard]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"weights": "c" * 64}, f"weights; expected {'c' * 64}, found {'b' * 64}"),
        ({"image_size": (8, 9)}, r"image_size; expected \(8, 9\), found \(32, 32\)"),
        ({"precision": "bfloat16"}, "precision; expected bfloat16, found float32"),
    ],
)
def test_another_trunk_is_refused_naming_the_field_and_both_values(store, change, line):
    with pytest.raises(StoreError, match=f"holds another trunk's features: {line}"):
        store.require(spec_with(**change))


def test_a_trunk_with_another_name_is_the_same_trunk(store):
    store.require(spec_with(base="renamed", weights_source="renamed.h5"))

    with pytest.raises(StoreError):
        store.require(spec_with(base="renamed", weights="c" * 64))


def test_a_folder_without_a_description_is_not_a_store(tmp_path):
    with pytest.raises(StoreError, match=r"no store at .*: trunk\.json is missing\. Run extract again"):
        Store(tmp_path)


def test_every_flipped_bit_in_the_description_is_detected(store):
    path = store.folder / DESCRIPTION_FILE
    whole = path.read_bytes()

    for bit in np.random.default_rng(0).permutation(len(whole) * 8)[:300].tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError):
            Store(store.folder)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"3", b"\xff", b'{"trunk": {}}', b'"text"', b"null"])
def test_a_malformed_description_is_refused(store, text):
    (store.folder / DESCRIPTION_FILE).write_bytes(text)

    with pytest.raises(StoreError, match=r"damaged description .*trunk\.json"):
        Store(store.folder)


def test_a_description_changed_by_hand_is_refused(store):
    path = store.folder / DESCRIPTION_FILE
    description = json.loads(path.read_text())
    description["trunk"]["shapes"] = [[9]]
    path.write_text(json.dumps(description))

    with pytest.raises(
        StoreError, match=r"damaged description .*: its checksum does not match\. Remove it and run extract"
    ):
        Store(store.folder)


# Finding rows


@settings(PER_EXAMPLE, max_examples=15)
@given(data=st.data(), shards=st.integers(1, 4))
def test_a_row_is_found_by_its_images_digest_and_view_only(tmp_path, data, shards):
    shutil.rmtree(tmp_path)
    store = make_store(tmp_path)
    # Digests that share their first bytes, where the index looks first.
    digests = data.draw(st.lists(st.sampled_from([b"\0", b"\1", b"\xff"]).map(lambda end: bytes(31) + end), max_size=6))
    placed = {}
    for shard in range(shards):
        rows = make_rows(WHOLE_SPEC, len(digests) + 1, seed=shard)
        rows.digests[: len(digests)] = np.array([list(digest) for digest in digests], np.uint8).reshape(-1, 32)
        rows.views[: len(digests)] = data.draw(
            st.lists(st.integers(0, 2), min_size=len(digests), max_size=len(digests))
        )
        name = store.append(rows, engine=ENGINE)
        for row in range(len(rows)):
            placed.setdefault((rows.digests[row].tobytes(), int(rows.views[row])), set()).add(RowAddress(name, row))

    index = RowIndex(store)

    assert len(index) == shards * (len(digests) + 1)
    for (digest, view), addresses in placed.items():
        assert index.find(digest, view) in addresses
        assert index.find(digest, 9) is None
    assert index.find(b"\7" * 32) is None
    keys = [*placed, (b"\7" * 32, 0), *placed]
    found = index.find_all(keys)
    assert found == [index.find(*key) for key in keys]
    assert found[len(placed)] is None


def test_an_empty_store_has_no_rows(store):
    index = RowIndex(store)

    assert len(index) == 0
    assert index.find(bytes(32)) is None
    assert index.find_all([]) == []


def test_damaged_shards_are_missing_rows_and_are_named(store):
    rows = [make_rows(WHOLE_SPEC, 2, seed=seed) for seed in range(3)]
    first, second, third = (store.append(each, engine=ENGINE) for each in rows)
    (store.folder / first).write_bytes(b"")
    (store.folder / second).write_bytes((store.folder / second).read_bytes()[:-40])

    index = RowIndex(store)

    assert index.find(rows[0].digests[0].tobytes()) is None
    assert index.find(rows[1].digests[0].tobytes()) is None
    assert index.find(rows[2].digests[1].tobytes()) == RowAddress(third, 1)
    assert sorted(first in str(e) or second in str(e) for e in index.damaged) == [True, True]


def test_rows_of_a_damaged_shard_with_an_intact_index_are_not_found(store):
    rows = make_rows(WHOLE_SPEC, 5)
    path = store.folder / store.append(rows, engine=ENGINE)
    whole = path.read_bytes()
    place = whole.index(rows.features[0].tobytes())
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    index = RowIndex(store)
    assert len(index) == 5 and index.damaged == []

    assert index.find(rows.digests[4].tobytes()) is None
    assert [str(error) for error in index.damaged] == [
        f"damaged shard {path}: the checksum of row 0 of features does not match. "
        "Run the same extract again: it computes what is missing"
    ]


def test_a_row_of_two_shards_is_found_in_the_intact_one(store):
    rows = make_rows(WHOLE_SPEC, 1)
    names = sorted(store.append(rows, engine=engine) for engine in ("one", "two"))
    for damaged, other in (names, names[::-1]):
        whole = (store.folder / damaged).read_bytes()
        (store.folder / damaged).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

        assert RowIndex(store).find(rows.digests[0].tobytes()) == RowAddress(other, 0)
        (store.folder / damaged).write_bytes(whole)


# Crashes, and several processes

WRITER = """
    import sys
    import numpy as np
    from samples import WHOLE_SPEC, make_rows
    from permafrost.store.store import Store

    store = Store.create(sys.argv[1], WHOLE_SPEC, about={})
    for seed in range(int(sys.argv[2]), int(sys.argv[3])):
        print(seed, store.append(make_rows(WHOLE_SPEC, 20, seed=seed), engine="keras/tensorflow"), flush=True)
"""


def start_writer(folder, first: int, last: int) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), str(first), str(last)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)


def test_a_kill_loses_no_committed_row_and_leaves_only_intact_shards(tmp_path):
    for moment in range(2):
        with start_writer(tmp_path, moment * 10**6, moment * 10**6 + 10**5) as writer:
            lines = [writer.stdout.readline() for _ in range(5 + 37 * moment)]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()

        store = Store(tmp_path / WHOLE_SPEC.folder_name)
        names = store.shard_names()
        for line in filter(lambda line: line.endswith("\n"), lines):
            seed, name = line.split()
            assert name in names
            assert np.array_equal(read_all(store, name, 20)[0], make_rows(WHOLE_SPEC, 20, seed=int(seed)).features[0])
        assert all(store.verify(name) == 20 for name in names)


def test_two_processes_can_fill_a_store_while_a_third_reads_it(tmp_path):
    store = make_store(tmp_path)
    with start_writer(tmp_path, 0, 40) as first, start_writer(tmp_path, 20, 60) as second:
        while first.poll() is None or second.poll() is None:
            index = RowIndex(store)
            assert index.damaged == []
            assert len(index) % 20 == 0

    assert first.returncode == second.returncode == 0
    assert len(store.shard_names()) == 60
    assert all(store.verify(name) == 20 for name in store.shard_names())
