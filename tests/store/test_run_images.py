"""The record of a run's images: what was trained on wins, and a damaged or foreign file is refused in one line."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import one_error_line
from permafrost.errors import RunError
from permafrost.store.hdf5 import arrays_checksum, hdf5_bytes, write_text
from permafrost.store.run_images import DATASETS, FORMAT, UNKNOWN, RunImages, read_run_images

TRAIN, VALIDATION, TEST = range(3)


def digest(number: int) -> bytes:
    """A digest; many of them end in zero bytes, which NumPy's strings drop."""
    return number.to_bytes(4, "big") + bytes(28)


def images(*used: tuple[int, int]) -> RunImages:
    digests = np.frombuffer(b"".join(digest(number) for number, _ in used), np.uint8).reshape(-1, 32)
    return RunImages.of(digests, np.array([split for _, split in used], np.int64))


def splits_of(record: RunImages, *numbers: int) -> list[int]:
    return record.splits_of(images(*((number, 0) for number in sorted(numbers))).digests).tolist()


def test_an_image_has_the_split_that_it_was_used_for():
    record = images((5, TEST), (0, TRAIN), (256, VALIDATION))

    assert splits_of(record, 0, 1, 5, 256, 999) == [TRAIN, UNKNOWN, TEST, VALIDATION, UNKNOWN]
    assert splits_of(images(), 0, 1) == [UNKNOWN, UNKNOWN]


def test_content_that_was_trained_on_once_counts_as_trained_on():
    record = images((1, TEST), (1, TRAIN), (2, TEST), (2, VALIDATION)).joined(images((2, TEST), (3, TRAIN), (4, TEST)))

    assert splits_of(record.joined(images((4, TRAIN))), 1, 2, 3, 4) == [TRAIN, VALIDATION, TRAIN, TRAIN]


used = st.lists(st.tuples(st.integers(0, 8) | st.integers(0, 2**32 - 1), st.integers(0, 2)))


@given(used)
def test_any_record_is_read_as_it_was_written(tmp_path_factory, pairs):
    path = tmp_path_factory.getbasetemp() / "images.h5"
    record = images(*pairs)
    path.write_bytes(record.to_bytes())

    read = read_run_images(path, checksum=record.checksum)

    for number, _ in pairs:
        assert splits_of(read, number) == [min(split for other, split in pairs if other == number)]
    assert len(read) == len({number for number, _ in pairs})


RECORD = images((1, TRAIN), (2, VALIDATION), (3, TEST))


def written(path, *, form=FORMAT, checksum=None, **changes):
    arrays = {"digests": RECORD.digests, "splits": RECORD.splits} | changes

    def fill(file: h5py.File) -> None:
        for name, array in arrays.items():
            file[name] = array
        write_text(file, "format", form)
        write_text(file, "checksum", checksum or arrays_checksum(arrays, DATASETS))

    path.write_bytes(hdf5_bytes(fill))
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"form": "permafrost shard"}, "it has another format"),
        ({"checksum": "0" * 32}, "its checksum does not match"),
        ({"splits": np.array([0, 1, 3], np.uint8)}, "splits has values other than train, validation, test"),
        ({"splits": np.array([0, 1], np.uint8)}, r"digests has shape \(3, 32\), and splits \(2,\)"),
        ({"splits": np.array([0, 1, 2])}, r"splits has dtype <i8 instead of \|u1"),
        ({"digests": RECORD.digests[::-1]}, "digests are not in ascending order"),
        ({"digests": RECORD.digests[[0, 1, 1]]}, "digests are not in ascending order"),
        ({"digests": RECORD.digests[:, :16]}, r"digests has shape \(3, 16\)"),
    ],
)
def test_a_record_that_was_made_by_hand_is_refused_with_the_reason(tmp_path, changes, reason):
    path = written(tmp_path / "images.h5", **changes)

    with pytest.raises(RunError, match=reason) as caught:
        read_run_images(path, checksum=RECORD.checksum)

    line = one_error_line(caught.value)
    assert line.startswith(f"damaged record of a run's images: {path}; found ")
    assert line.endswith(". Fit again")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"x" * 5000], ids=["empty", "cut", "text"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "images.h5").write_bytes(content)

    with pytest.raises(RunError, match="damaged record of a run's images"):
        read_run_images(tmp_path / "images.h5", checksum=RECORD.checksum)


def test_any_flipped_bit_is_found_or_harmless(tmp_path):
    path = tmp_path / "images.h5"
    data = bytearray(RECORD.to_bytes())
    for position in range(0, len(data), 7):
        data[position] ^= 4
        path.write_bytes(data)
        try:
            read = read_run_images(path, checksum=RECORD.checksum)
        except RunError as error:
            one_error_line(error)
        else:
            assert np.array_equal(read.splits, RECORD.splits)
            assert np.array_equal(read.digests, RECORD.digests)
        data[position] ^= 4


def test_the_record_of_another_run_is_refused(tmp_path):
    path = written(tmp_path / "images.h5")

    with pytest.raises(RunError, match=r"is not the record that this run wrote; expected 0{32}, found \w{32}"):
        read_run_images(path, checksum="0" * 32)
