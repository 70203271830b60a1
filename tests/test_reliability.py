"""The promises of the store, tested on real processes, disks and bytes; see `experiments`.

The counts here are small; slow tests have the counts of `benchmarks/results.md` and print its table.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import experiments
import tiny_extract
from experiments import Outcome, Real, Tiny, arguments_for, write_images
from permafrost import extract, open_features
from permafrost.extraction import extract as extraction
from permafrost.extraction import pipeline
from permafrost.extraction import writer as committing
from permafrost.store import compaction
from permafrost.store.compaction import compact
from permafrost.store.feature_set import FeatureSet
from permafrost.store.row_index import RowIndex
from permafrost.store.store import Store
from processes import Nursery
from samples import WHOLE_SPEC, encoded, make_rows, texture

CLOSE = 40 * tiny_extract.SLOT


@pytest.fixture(scope="session")
def nursery():
    """A nursery that starts processes in milliseconds."""
    nursery = Nursery("tiny_extract")
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """60 small images. Not to be changed."""
    return write_images(tmp_path_factory.mktemp("images") / "data", 60)


@pytest.fixture
def work() -> Iterator[Path]:
    """An empty folder, in memory if possible: killing a process, unlike a power cut, does not involve the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def tiny(nursery, work) -> Tiny:
    return Tiny(nursery, log=work / "batches", delay=0.002)


@pytest.fixture(scope="session")
def real(tiny_base) -> Iterator[Real]:
    nursery = Nursery(*experiments.HEAVY)
    yield Real(nursery, tiny_base)
    nursery.close()


@pytest.fixture
def report(capsys):
    """Print the outcome of an experiment as a line of the table, and assert that it has no fault."""

    def report(name: str, outcome: Outcome) -> None:
        with capsys.disabled():
            print(f"\n{experiments.table_line(name, outcome)}")
        assert outcome.faultless(), outcome

    return report


def test_a_kill_loses_no_committed_row_and_the_same_command_completes_the_result(tiny, images, work):
    outcome = experiments.kills(tiny, images, work, repetitions=15, longest=0.1, log=tiny.log)

    assert outcome.faultless(), outcome
    # When handing over a batch waits for a commit: this batch, two commits before it, two batches after it.
    assert outcome.notes["computed again per kill, at most, mean of a run"] <= 5 * 8


@pytest.mark.parametrize("moment", range(0, 70, 7))
def test_ctrl_c_at_any_moment_ends_the_command_and_the_same_command_continues(nursery, images, work, moment):
    arguments = arguments_for(images, work / "set.h5")

    process = nursery.start("tiny_extract.run_with_ctrl_c", arguments, moment, output=work / "log")
    assert nursery.wait(process) == 130, (work / "log").read_text()

    assert (work / "log").read_text().strip().endswith("interrupted; run the same command to continue")
    assert nursery.wait(nursery.start("tiny_extract.run", arguments, output=work / "log")) == 0
    assert len(open_features(work / "set.h5")) == 60


def test_a_full_disk_is_one_clear_line_and_committed_rows_are_whole(tiny, images, work):
    outcome = experiments.full_disks(tiny, images, work, repetitions=8)

    if outcome is None:
        pytest.skip("no file system can be mounted with these rights")
    assert outcome.faultless(), outcome
    assert outcome.notes["clear errors"] == outcome.repetitions


def test_concurrent_processes_lose_nothing(tiny, images, work):
    outcome = experiments.together(tiny, images, work, repetitions=4, close=CLOSE)

    assert outcome.faultless(), outcome


def test_a_reader_sees_a_whole_set_at_any_time(tiny, images, work):
    more = sorted(write_images(work / "more", 100).rglob("*.png"))[60:]

    outcome = experiments.readers(tiny, images, more, work, opens=25, close=CLOSE)

    assert outcome.faultless(), outcome


@pytest.fixture
def take(monkeypatch, work):
    """Run `extract` in this process with the tiny trunk."""
    for module, name in (
        (committing, "COMMIT_SECONDS"),
        (pipeline, "engine_for"),
        (extraction, "build_trunks_of"),
        (tiny_extract.cutting, "save_trunk"),
        (pipeline, "cached_conversion"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # Restores it after the test.
    tiny_extract.use_tiny_trunk()

    def take(data: Path, out: Path | None = None, **options) -> FeatureSet:
        options = {"batch_size": 8, "out": out or work / "features" / "set.h5", "progress": False} | options
        return extract(data, **options)

    return take


@pytest.fixture
def few(images, work) -> Path:
    """24 images, copies of the first of `images`."""
    for path in sorted(images.rglob("*.png"))[:24]:
        place = work / "few" / path.relative_to(images)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return write_images(work / "few", 3)


def test_any_damage_to_a_shard_is_detected_and_repaired(take, few):
    outcome = experiments.damages(lambda out: take(few, out), take(few), repetitions=30, heal_every=10)

    assert outcome.faultless(), outcome


def test_a_store_that_grows_by_ten_images_per_day_has_few_shards_and_every_row(work):
    store = Store.create(work, WHOLE_SPEC, about={})
    days = [make_rows(WHOLE_SPEC, 10, seed=day) for day in range(80)]
    most = 0

    for rows in days:
        store.append(rows, engine="keras/tensorflow")
        compact(store)
        most = max(most, len(store.shard_names()))

    index = RowIndex(store)
    assert most <= compaction.MANY + 1
    assert len(index) == 800
    assert all(index.find(digest.tobytes()) for rows in days for digest in rows.digests)


# Damaged and unusual files


def saved(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def odd_files(folder: Path) -> dict[str, str]:
    """Write files of all kinds that people have among their images; return the expected verdict by name."""
    whole = encoded(texture("dots", 1, (60, 80)), "JPEG")
    png = encoded(texture("dots", 2))
    grey16 = encoded(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50, "PNG")
    cmyk = io.BytesIO()
    Image.new("CMYK", (9, 9), (1, 2, 3, 4)).save(cmyk, "JPEG")
    animated = io.BytesIO()
    Image.new("P", (9, 9)).save(animated, "GIF", save_all=True, append_images=[Image.new("P", (9, 9), 1)])
    turned = Image.Exif()
    turned[0x0112] = 6
    bomb = io.BytesIO()
    Image.new("1", (11_000, 11_000)).save(bomb, "PNG")
    contents: dict[bytes, tuple[bytes, str]] = {
        b"whole.jpg": (whole, "used"),
        b"UPPER.JPG": (whole, "used"),
        b"png.jpg": (png, "used"),
        b"jpeg.png": (whole, "used"),
        b"grey16.png": (grey16, "used"),
        b"cmyk.jpg": (cmyk.getvalue(), "used"),
        b"animated.gif": (animated.getvalue(), "used"),
        b"turned.jpg": (encoded(texture("dots", 4), "JPEG", exif=turned), "used"),
        b"alpha.png": (encoded(np.full((9, 9, 4), 7, np.uint8)), "used"),
        b"tiff.tiff": (encoded(texture("dots", 5), "TIFF"), "used"),
        b"webp.webp": (encoded(texture("dots", 6), "WEBP"), "used"),
        b"avif.avif": (encoded(texture("dots", 7), "AVIF"), "used"),
        b"one-pixel.png": (encoded(np.zeros((1, 1, 3), np.uint8)), "used"),
        b"trailing.jpg": (whole + bytes(999), "used"),
        b"two\nlines.jpg": (whole, "used"),
        b"caf\xe9 not utf-8.jpg": (whole, "used"),
        "日本語 \u202e.jpg".encode(): (whole, "used"),
        b"-dash.jpg": (whole, "used"),
        b"a" * 250 + b".jpg": (whole, "used"),
        b"cut.jpg": (whole[: len(whole) // 2], "cannot be decoded"),
        b"cut.png": (png[: len(png) // 2], "cannot be decoded"),
        b"header-only.png": (png[:40], "not an image in any format"),
        b"empty.jpg": (b"", "the file is empty"),
        b"page.jpg": (b"<html><body>404", "not an image in any format"),
        b"zeros.jpg": (bytes(5000), "not an image in any format"),
        b"float.tiff": (saved(Image.new("F", (9, 9)), "TIFF"), "pixels of no known range"),
        b"bomb.png": (bomb.getvalue(), "too many pixels"),
        b"notes.txt": (b"mine", "not an image (.txt)"),
        b"no extension": (whole, "used"),
        b"README": (b"mine", "not an image (no extension)"),
        b".hidden.jpg": (whole, "hidden"),
    }
    place = os.fsencode(folder / "odd")
    os.makedirs(place)
    for name, (data, _) in contents.items():
        with open(os.path.join(place, name), "wb") as file:
            file.write(data)
    expected = {os.fsdecode(name): verdict for name, (_, verdict) in contents.items()}
    os.mkfifo(folder / "odd" / "fifo.jpg")
    (folder / "odd" / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "odd" / "loop.jpg").symlink_to("loop.jpg")
    (folder / "odd" / "up").symlink_to("..")
    (folder / "odd" / "folder.jpg").mkdir()
    (folder / "nothing in it").mkdir()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound, contextlib.chdir(folder / "odd"):
        bound.bind("socket.jpg")
    return expected | {
        "fifo.jpg": "not a regular file",
        "dangling.jpg": "No such file",
        "loop.jpg": "Too many levels of symbolic links",
        "up": "a link to a folder",
        "folder.jpg": "an empty folder",
        "socket.jpg": "",
    }


def test_each_unusual_file_has_one_verdict_and_none_hangs_or_takes_much_memory(nursery, work, images):
    data = Path(shutil.copytree(images, work / "data"))
    expected = odd_files(data)
    assert len(expected) >= 35
    arguments = [*arguments_for(data, work / "set.h5"), "--max-pixels", "100000000"]

    process = nursery.start("tiny_extract.run_and_record_memory", arguments, str(work / "memory"), output=work / "log")
    assert nursery.wait(process) == 0, (work / "log").read_text()

    features = open_features(work / "set.h5")
    verdicts = {name: "used" for name in features.names() if name.startswith("odd")}
    for name, reason in features.skipped:
        assert name not in verdicts
        verdicts[name] = reason
    assert verdicts.pop("nothing in it") == "a class folder without images"
    assert verdicts.keys() == {f"odd/{name}" for name in expected}
    for name, verdict in expected.items():
        assert verdict in verdicts[f"odd/{name}"], name
    assert int((work / "memory").read_text()) < 400 * 2**20


def test_unreadable_files_and_folders_are_skipped_with_the_reason(nursery, work, images):
    data = Path(shutil.copytree(images, work / "data"))
    (data / "class-0" / "secret.jpg").write_bytes(encoded(texture("dots", 1), "JPEG"))
    (data / "class-0" / "secret.jpg").chmod(0)
    (data / "class-0" / "locked").mkdir(mode=0)
    work.chmod(0o777)
    (work / "log").touch(0o666)

    function = "tiny_extract.run"
    if os.getuid() == 0:  # Root can read everything.
        function = "tiny_extract.run_as_nobody"
        if any(not parent.stat().st_mode & stat.S_IXOTH for parent in Path(os.__file__).parents):
            pytest.skip("other users cannot read this interpreter's libraries")
    process = nursery.start(function, arguments_for(data, work / "features" / "set.h5"), output=work / "log")

    assert nursery.wait(process) == 0, (work / "log").read_text()
    skipped = dict(open_features(work / "features" / "set.h5").skipped)
    assert skipped == {"class-0/secret.jpg": "Permission denied", "class-0/locked": "Permission denied"}


# A read-only disk


def test_a_read_only_disk_is_one_clear_line(nursery, work, images):
    disk = work / "disk"
    with experiments.small_disk(disk, 2**20) as grow:
        if grow is None:
            pytest.skip("no file system can be mounted with these rights")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        tiny = Tiny(nursery)

        status = experiments.finish(tiny, arguments_for(images, disk / "features" / "set.h5"), work / "log", Outcome())

    assert status == 2
    line = (work / "log").read_text().strip()
    assert "\n" not in line and "Read-only file system" in line and line.startswith("permafrost extract: cannot write")


# Repeatable results


def test_features_are_bitwise_equal_for_any_number_of_workers_and_file_order(take, images, work, monkeypatch):
    first = experiments.rows_of(take(images))
    listed = os.scandir

    class Backwards:
        def __init__(self, path="."):
            with listed(path) as entries:
                self._entries = list(entries)[::-1]

        def __iter__(self):
            return iter(self._entries)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    for workers in (1, 5):
        again = take(images, work / f"again-{workers}" / "set.h5", workers=workers)
        assert experiments.rows_of(again) == first
        assert again.names() == sorted(again.names())


# Full counts


@pytest.mark.slow
@pytest.mark.timeout(3000)
class TestFull:
    """The experiments with the counts of `benchmarks/results.md`."""

    def test_kills(self, real, work, report):
        data = write_images(work / "data", 2400)
        report("kill -9, `bin/extract`", experiments.kills(real, data, work, repetitions=200, longest=1.5))

    def test_kills_of_a_process_that_starts_at_once(self, tiny, images, work, report):
        outcome = experiments.kills(tiny, images, work, repetitions=200, longest=0.15, log=tiny.log)
        report("kill -9, NumPy trunk", outcome)

    def test_full_disks(self, real, images, work, report):
        outcome = experiments.full_disks(real, images, work, repetitions=50)
        if outcome is None:
            pytest.skip("no file system can be mounted with these rights")
        report("disk full, `bin/extract`", outcome)

    def test_full_disks_of_a_process_that_starts_at_once(self, tiny, images, work, report):
        outcome = experiments.full_disks(tiny, images, work, repetitions=50)
        if outcome is None:
            pytest.skip("no file system can be mounted with these rights")
        report("disk full, NumPy trunk", outcome)

    def test_damages(self, take, few, report):
        outcome = experiments.damages(lambda out: take(few, out), take(few), repetitions=1000, heal_every=10)
        report("damaged shards", outcome)

    def test_several_at_once(self, real, images, work, report):
        outcome = experiments.together(real, images, work, repetitions=50, close=1e-5)
        report("2 and 4 at once, `bin/extract`", outcome)

    def test_several_at_once_of_a_process_that_starts_at_once(self, tiny, images, work, report):
        outcome = experiments.together(tiny, images, work, repetitions=50, close=CLOSE)
        report("2 and 4 at once, NumPy trunk", outcome)

    def test_a_year_of_ten_images_a_day(self, take, work, capsys):
        data, days = write_images(work / "data", 100), 365
        new = sorted(write_images(work / "new", 100 + 10 * days).rglob("*.png"))[100:]
        for day in range(days):
            for path in new[10 * day : 10 * day + 10]:
                shutil.copy(path, data / "class-0" / f"{day:03}-{path.name}")
            started = time.perf_counter()
            features = take(data)
            last = time.perf_counter() - started
        started = time.perf_counter()
        x, _ = open_features(features.path).arrays()
        opened = time.perf_counter() - started
        with capsys.disabled():
            shards = len(features.store.shard_names())
            print(
                f"\n{len(x):,} rows, {shards} shards; the last extraction {last:.2f} s, opened and read {opened:.3f} s"
            )
        assert shards <= compaction.MANY + 2
        assert opened < 1

    def test_readers(self, tiny, images, work, report):
        more = sorted(write_images(work / "more", 400).rglob("*.png"))[60:]
        outcome = experiments.readers(tiny, images, more, work, opens=1000, close=CLOSE)
        report("a set opened while it grows", outcome)
