"""Damaged shards, interruptions and bad images: nothing is lost or dropped silently."""

from __future__ import annotations

import os
import shutil

import pytest

from helpers import close
from permafrost import open_features
from permafrost.engines.keras_engine import KerasEngine
from permafrost.errors import DatasetError, ImageError, ShardError, StoreError
from permafrost.extraction import writer as committing
from samples import CLASSES, encoded, texture

pytest_plugins = ["upper"]


# Damage and interruption


@pytest.fixture
def many_shards(monkeypatch):
    """From now on each batch is committed at once, as a shard of its own."""
    monkeypatch.setattr(committing, "COMMIT_SECONDS", 0)


@pytest.mark.parametrize("damage", ["gone", "a bit in a row", "another's bytes"])
def test_a_damaged_shard_is_noticed_by_the_reader_and_repaired_by_the_next_run(
    take, photos, many_shards, computed, damage
):
    first = take(photos, batch_size=6)
    x, _ = first.arrays()
    path, other = (first.store.folder / name for name in first.store.shard_names()[:2])
    whole = path.read_bytes()
    flipped = bytearray(whole)
    with_rows = whole.index(x[[name.tobytes() in whole for name in first.digests()]][0].tobytes())
    flipped[with_rows] ^= 1
    contents = {"a bit in a row": flipped, "another's bytes": other.read_bytes()}
    path.unlink()  # A set that is open reads on from this file, and HDF5 would share what it has read of it.
    if damage != "gone":
        path.write_bytes(contents[damage])
    with pytest.raises(ShardError, match=path.name):
        open_features(first.path).arrays()
    computed.clear()

    repaired = take(photos, batch_size=6)

    assert computed == [6]
    assert damage == "gone" or any(path.name in message for message in repaired.summary["damaged"])
    assert close(repaired.arrays()[0], x, 1e-6)
    assert repaired.names() == first.names()


def test_what_was_computed_before_an_interruption_is_not_computed_again(
    take, photos, many_shards, computed, monkeypatch
):
    counted = KerasEngine.__call__

    def interrupted(self, pixels):
        if len(computed) == 2:
            raise KeyboardInterrupt
        return counted(self, pixels)

    monkeypatch.setattr(KerasEngine, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take(photos, batch_size=4)
    monkeypatch.setattr(KerasEngine, "__call__", counted)
    computed.clear()

    features = take(photos, batch_size=4)

    assert sum(computed) == 18 - 2 * 4
    assert features.summary["cached"] == 8


def test_a_trunk_file_that_is_gone_is_written_anew(take, photos):
    features = take(photos)
    (features.store.folder / "trunk.keras").unlink()

    take(photos)

    assert (features.store.folder / "trunk.keras").is_file()


def test_a_damaged_description_is_an_error(take, photos):
    features = take(photos)
    (features.store.folder / "trunk.json").write_bytes(b"{")

    with pytest.raises(StoreError, match=r"damaged description .*trunk\.json.* Remove it and run extract again"):
        take(photos)


# Bad images


def test_bad_images_are_skipped_with_path_and_reason_in_the_summary_and_in_the_file(take, own_photos):
    (own_photos / "dots" / "cut.jpg").write_bytes(encoded(texture("dots", 0, (90, 90)), "JPEG")[:900])
    (own_photos / "dots" / "empty.png").write_bytes(b"")
    (own_photos / "dots" / "page.jpg").write_bytes(b"<html>")
    (own_photos / "dots" / "notes.txt").write_bytes(b"mine")
    (own_photos / "dots" / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(own_photos / "dots" / "fifo.jpg")

    features = take(own_photos)

    assert features.summary["images"] == len(features) == 18
    assert features.summary["skipped"] == 6
    assert open_features(features.path).skipped == features.skipped
    reasons = dict(features.skipped)
    assert reasons.pop("dots/cut.jpg").startswith("cannot be decoded: OSError: ")
    assert reasons == {
        "dots/empty.png": "the file is empty",
        "dots/page.jpg": "not an image in any format that is read; found a web page, as downloads leave it that failed",
        "dots/notes.txt": "not an image (.txt)",
        "dots/gone.jpg": "No such file or directory",
        "dots/fifo.jpg": "not a regular file",
    }


def test_a_bad_image_is_read_again_in_the_next_run(take, own_photos, computed):
    path = own_photos / "dots" / "later.png"
    path.write_bytes(b"")
    take(own_photos)
    path.write_bytes(encoded(texture("dots", 77)))
    computed.clear()

    features = take(own_photos)

    assert computed == [1]
    assert features.skipped == ()


def test_with_on_bad_fail_a_bad_image_is_an_error_that_names_it(take, own_photos):
    (own_photos / "dots" / "empty.png").write_bytes(b"")

    line = r"bad image .*dots/empty\.png: the file is empty\. Remove it, or use --on-bad skip"
    with pytest.raises(ImageError, match=line):
        take(own_photos, on_bad="fail")


def test_if_no_image_can_be_decoded_the_error_says_so_and_nothing_is_written(take, tmp_path):
    for kind in CLASSES:
        (tmp_path / "broken" / kind).mkdir(parents=True)
        (tmp_path / "broken" / kind / "1.jpg").write_bytes(b"<html>")

    with pytest.raises(DatasetError, match=r"none of the 3 images in .* can be read; found .*checks/1\.jpg: not a"):
        take(tmp_path / "broken")

    assert not (tmp_path / "features").exists()


def test_every_broken_or_odd_file_is_either_used_or_skipped_with_a_reason(take, own_photos, shared):
    odd = own_photos / "odd"
    shutil.copytree(shared / "data" / "corrupt", odd)

    features = take(own_photos)

    files = {os.path.relpath(path, own_photos) for path in odd.rglob("*") if path.is_file()}
    listed = [name for name in (*features.names(), *(name for name, _ in features.skipped)) if name.startswith("odd/")]
    assert sorted(listed) == sorted(files)
    assert sum("undecodable" in name for name, _ in features.skipped) == 6
    assert sum("odd_but_decodable" in name for name in features.names()) == 7
    assert all(reason for _, reason in features.skipped)
