"""The promises of the store, tried on real processes, disks and bytes; see `experiments`.

The counts here are small; those marked slow are the ones of `docs/reliability.md`, and print its table.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import experiments
import tiny_extract
from experiments import Figures, Real, Tiny, write_pictures
from permafrost import committing, extract, extraction, pipeline
from permafrost.feature_set import FeatureSet
from processes import Nursery

CLOSE = 40 * tiny_extract.SLOT


@pytest.fixture(scope="session")
def nursery():
    """What starts processes in milliseconds."""
    nursery = Nursery("tiny_extract")
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """60 small pictures. Not to be changed."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "data", 60)


@pytest.fixture
def work() -> Iterator[Path]:
    """An empty folder, in memory where that can be: the end of a process, unlike that of power, needs no disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def tiny(nursery, work) -> Tiny:
    return Tiny(nursery, log=work / "batches", delay=0.002)


@pytest.fixture
def real(tiny_base) -> Real:
    return Real(tiny_base)


@pytest.fixture
def report(capsys):
    """Print what an experiment came to, as a line of the table, and make sure that it is faultless."""

    def report(name: str, figures: Figures) -> None:
        with capsys.disabled():
            print(f"\n{experiments.table_line(name, figures)}")
        assert figures.faultless(), figures

    return report


def test_a_kill_loses_no_committed_row_and_the_same_command_ends_as_if_unbroken(tiny, pictures, work):
    figures = experiments.kills(tiny, pictures, work, repetitions=15, longest=0.1, log=tiny.log)

    assert figures.faultless(), figures
    # One batch that is computed, two commits under way and one that waits.
    assert figures.notes["computed again per kill, at most, mean of a run"] <= 4 * 8


def test_a_full_disk_is_one_clear_line_and_what_was_committed_is_whole(tiny, pictures, work):
    figures = experiments.full_disks(tiny, pictures, work, repetitions=8)

    if figures is None:
        pytest.skip("no file system can be mounted with these rights")
    assert figures.faultless(), figures
    assert figures.notes["clear errors"] >= 6


def test_several_at_once_lose_nothing(tiny, pictures, work):
    figures = experiments.together(tiny, pictures, work, repetitions=4, close=CLOSE)

    assert figures.faultless(), figures


def test_a_reader_sees_a_whole_set_at_any_time(tiny, pictures, work):
    more = sorted(write_pictures(work / "more", 100).rglob("*.png"))[60:]

    figures = experiments.readers(tiny, pictures, more, work, opens=25, close=CLOSE)

    assert figures.faultless(), figures


@pytest.fixture
def take(monkeypatch, work):
    """`extract` in this process with the tiny trunk."""
    for module, name in (
        (committing, "COMMIT_SECONDS"),
        (pipeline, "engine_for"),
        (extraction, "build_trunks_of"),
        (tiny_extract.cutting, "save_trunk"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # So that it is put back.
    tiny_extract.use_tiny_trunk()

    def take(data: Path, out: Path | None = None, **options) -> FeatureSet:
        options = {"batch_size": 8, "out": out or work / "features" / "set.h5", "progress": False} | options
        return extract(data, **options)

    return take


@pytest.fixture
def few(pictures, work) -> Path:
    """24 pictures, copies of the first of `pictures`."""
    for path in sorted(pictures.rglob("*.png"))[:24]:
        place = work / "few" / path.relative_to(pictures)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return write_pictures(work / "few", 3)


def test_whatever_happens_to_a_shard_is_noticed_and_mended(take, few):
    figures = experiments.damages(lambda out: take(few, out), take(few), repetitions=30, heal_every=10)

    assert figures.faultless(), figures


# The full counts


@pytest.mark.slow
@pytest.mark.timeout(3000)
class TestFull:
    """As often as `docs/reliability.md` says."""

    def test_kills(self, real, work, report):
        data = write_pictures(work / "data", 2400)
        report("kill -9, `bin/extract`", experiments.kills(real, data, work, repetitions=200, longest=1.5))

    def test_kills_of_a_process_that_starts_at_once(self, tiny, pictures, work, report):
        figures = experiments.kills(tiny, pictures, work, repetitions=200, longest=0.15, log=tiny.log)
        report("kill -9, NumPy trunk", figures)

    def test_full_disks(self, real, pictures, work, report):
        figures = experiments.full_disks(real, pictures, work, repetitions=50)
        if figures is None:
            pytest.skip("no file system can be mounted with these rights")
        report("disk full, `bin/extract`", figures)

    def test_damages(self, take, few, report):
        figures = experiments.damages(lambda out: take(few, out), take(few), repetitions=1000, heal_every=10)
        report("damaged shards", figures)

    def test_several_at_once(self, real, pictures, work, report):
        figures = experiments.together(real, pictures, work, repetitions=50, close=1e-5)
        report("2 and 4 at once, `bin/extract`", figures)

    def test_readers(self, tiny, pictures, work, report):
        more = sorted(write_pictures(work / "more", 400).rglob("*.png"))[60:]
        figures = experiments.readers(tiny, pictures, more, work, opens=1000, close=CLOSE)
        report("a set opened while it grows", figures)
