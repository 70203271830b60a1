"""The experiments behind `benchmarks/results.md`: real processes killed, real disks full, real bytes changed.

Each is a function that takes how often, and gives what was lost, wrong or hung. The ordinary suite runs them some tens
of times; `bin/test -m slow tests/test_reliability.py` as often as the page says, and prints its table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from permafrost.atomic import leftovers
from permafrost.errors import PermafrostError, ShardError
from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.store.store import Store
from permafrost.store.verification import verify
from processes import Nursery
from samples import PX, encoded

LIMIT = 120.0
"""Seconds after which a process counts as hung."""


@dataclasses.dataclass
class Figures:
    """What came of an experiment.

    Attributes:
        repetitions: how often it was done.
        lost: committed rows that were gone.
        wrong: rows with another value than they should have, files that cannot be read, ends without a clear line.
        hung: processes that did not end.
        notes: what else was counted.
    """

    repetitions: int = 0
    lost: int = 0
    wrong: int = 0
    hung: int = 0
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def faultless(self) -> bool:
        return (self.lost, self.wrong, self.hung) == (0, 0, 0) and self.repetitions > 0


class Program(Protocol):
    """Starts `extract` as a process of its own."""

    def start(self, arguments: list[str], output: Path) -> int: ...

    def wait(self, process: int) -> int: ...


@dataclasses.dataclass(frozen=True)
class Tiny:
    """`tiny_extract`, forked."""

    nursery: Nursery
    log: Path | None = None
    delay: float = 0.0
    commit_seconds: float = 0.0

    def start(self, arguments: list[str], output: Path) -> int:
        log = str(self.log) if self.log else None
        return self.nursery.start("tiny_extract.run", arguments, log, self.delay, self.commit_seconds, output=output)

    def wait(self, process: int) -> int:
        return self.nursery.wait(process)


@dataclasses.dataclass(frozen=True)
class Real:
    """`extract` with a base that Keras has built, forked from a process that has loaded the libraries.

    Attributes:
        nursery: with `HEAVY` imported.
        base: a `.keras` file.
    """

    nursery: Nursery
    base: Path

    def start(self, arguments: list[str], output: Path) -> int:
        """As `Program`."""
        return self.nursery.start(
            "permafrost.cli.run", ["extract", *arguments, "--base", str(self.base)], output=output
        )

    def wait(self, process: int) -> int:
        """As `Program`."""
        return self.nursery.wait(process)


HEAVY = (
    "tensorflow",
    "keras",
    "openvino",
    "permafrost.cli.extract",
    "permafrost.extraction.extract",
    "permafrost.trunk.cutting",
)


def write_images(folder: Path, count: int) -> Path:
    """Small images of noise in three classes, all different."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class-{number % 3}" / f"{number:05}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(generator.integers(0, 256, (PX, PX, 3), dtype=np.uint8)))
    return folder


def arguments_for(data: Path, out: Path, *more: str) -> list[str]:
    return [str(data), "--out", str(out), "--batch-size", "8", "--no-progress", *more]


def rows_of(features: FeatureSet) -> dict[bytes, bytes]:
    """By content digest the bytes of each image's features."""
    x, _ = features.arrays()
    return {digest.tobytes(): row.tobytes() for digest, row in zip(features.digests(), x, strict=True)}


def kept_rows(store_folder: Path) -> tuple[dict[bytes, bytes], int]:
    """By content digest all rows in a store, each checked; and how many shards cannot be read."""
    rows: dict[bytes, bytes] = {}
    unreadable = 0
    if not (store_folder / "trunk.json").exists():
        return rows, 0
    store = Store(store_folder)
    for name in store.shard_names():
        try:
            store.verify(name)
            loaded, _ = store.load(name)
        except ShardError:
            unreadable += 1
            continue
        rows |= {
            digest.tobytes(): row.tobytes() for digest, row in zip(loaded.digests, loaded.features[0], strict=True)
        }
    return rows, unreadable


def only_store(folder: Path) -> Path:
    """The store below a folder of sets; a name that is not there where there is none."""
    return next((folder / "store").glob("*"), folder / "store" / "none")


def finish(program: Program, arguments: list[str], output: Path, figures: Figures) -> int:
    """Start a process and wait for its end; its exit status."""
    return end_of(program, program.start(arguments, output), figures)


def end_of(program: Program, process: int, figures: Figures) -> int:
    """The exit status of a process once it has ended; one that does not is counted as hung, and killed."""
    limit = time.monotonic() + LIMIT
    while not _ended(process):
        if time.monotonic() > limit:
            figures.hung += 1
            os.kill(process, signal.SIGKILL)
        time.sleep(0.002)
    return program.wait(process)


def kills(
    program: Program,
    data: Path,
    work: Path,
    *,
    repetitions: int,
    longest: float,
    log: Path | None = None,
    seed: int = 0,
) -> Figures:
    """SIGKILL at a random moment; what was committed stays, the same command goes on, and its end is as if unbroken.

    Args:
        program: what extracts.
        data: images.
        work: an empty folder.
        repetitions: kills.
        longest: seconds after its start, or after the first commit, until which a process is killed.
        log: where the program writes the sizes of its batches.
        seed: of the moments.
    """
    figures, moments = Figures(), random.Random(seed)
    reference_set = work / "reference" / "set.h5"
    assert finish(program, arguments_for(data, reference_set), work / "log", figures) == 0, (work / "log").read_text()
    reference = rows_of(open_features(reference_set))
    again = completed = 0
    for number in itertools.count():
        if figures.repetitions >= repetitions:
            break
        folder = work / f"run-{number}"
        arguments = arguments_for(data, folder / "set.h5")
        if log:
            log.unlink(missing_ok=True)
        known: dict[bytes, bytes] = {}
        killed = 0
        while figures.repetitions < repetitions:
            process = program.start(arguments, work / "log")
            if moments.random() < 0.5:
                _wait_for_rows(folder, len(known), process)
            time.sleep(moments.uniform(0, longest))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            if end_of(program, process, figures) == 0:
                break
            figures.repetitions += 1
            killed += 1
            now, unreadable = kept_rows(only_store(folder))
            figures.lost += len(known.keys() - now.keys())
            figures.wrong += unreadable + sum(reference.get(digest) != row for digest, row in now.items())
            figures.notes["left-over files"] = figures.notes.get("left-over files", 0) + len(_all_leftovers(folder))
            known = now
        if finish(program, arguments, work / "log", figures) != 0:
            figures.wrong += 1
            continue
        completed += 1
        rows = rows_of(open_features(folder / "set.h5"))
        figures.lost += len(reference.keys() - rows.keys())
        figures.wrong += sum(rows[digest] != row for digest, row in reference.items() if digest in rows)
        figures.wrong += len(_all_leftovers(folder))
        if log and killed:
            again = max(again, (sum(map(int, log.read_text().split())) - len(reference)) / killed)
        shutil.rmtree(folder)
    figures.notes |= {"runs ended": completed}
    if log:
        figures.notes["computed again per kill, at most, mean of a run"] = again
    return figures


def _wait_for_rows(folder: Path, known: int, process: int) -> None:
    """Wait until a process has committed something, or has ended."""
    limit = time.monotonic() + LIMIT
    before = len(list(only_store(folder).glob("[0-9a-f]*.h5")))
    while time.monotonic() < limit and Path(f"/proc/{process}").exists():
        if len(list(only_store(folder).glob("[0-9a-f]*.h5"))) > before or _ended(process):
            return
        time.sleep(0.002)


def _ended(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    return True


def _all_leftovers(folder: Path) -> list[Path]:
    found = leftovers(folder)
    for inner in folder.glob("store/*"):
        found += leftovers(inner)
    return found


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None] | None]:
    """A file system of `size` bytes in `folder`, and what makes it larger; None where the rights do not allow it."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return

    def grow(more: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={more}", str(folder)], check=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disks(program: Program, data: Path, work: Path, *, repetitions: int, seed: int = 0) -> Figures | None:
    """A file system that is full at `repetitions` points of a run: a clear line, and what was committed is whole.

    None where no file system can be mounted.
    """
    figures, moments = Figures(), random.Random(seed)
    reference_set = work / "reference" / "set.h5"
    assert finish(program, arguments_for(data, reference_set), work / "log", figures) == 0, (work / "log").read_text()
    reference = rows_of(open_features(reference_set))
    # A tmpfs counts pages of 4 KiB.
    most = used = sum(-(-path.stat().st_size // 4096) * 4096 for path in reference_set.parent.rglob("*"))
    clear = 0
    for point in itertools.count():
        if figures.repetitions == repetitions:
            break
        disk, output = work / f"disk-{point}", work / f"log-{point}"
        size = moments.randrange(most) // 4096 * 4096
        with small_disk(disk, 8192 + size) as grow:
            if grow is None:
                return None
            arguments = arguments_for(data, disk / "set.h5")
            status = finish(program, arguments, output, figures)
            if status == 0:
                most = size  # There was room enough, so there is at larger sizes.
                continue
            figures.repetitions += 1
            told = output.read_text().strip()
            if status == 2 and "\n" not in told and "No space left on device" in told:
                clear += 1
            else:
                figures.wrong += 1
                figures.notes.setdefault("ends", []).append((status, told[-300:]))
            rows, unreadable = kept_rows(only_store(disk))
            figures.wrong += unreadable + sum(reference[digest] != row for digest, row in rows.items())
            grow(4 * used + 2**20)
            if finish(program, arguments, output, figures) != 0:
                figures.wrong += 1
                continue
            again = rows_of(open_features(disk / "set.h5"))
            figures.lost += len(reference.keys() - again.keys())
            figures.wrong += sum(again[digest] != row for digest, row in reference.items() if digest in again)
    figures.notes["clear errors"] = clear
    return figures


DAMAGES = ("bit", "cut", "gone")


def damages(
    extract: Callable[[Path], FeatureSet], features: FeatureSet, *, repetitions: int, heal_every: int, seed: int = 0
) -> Figures:
    """A bit flipped, the end cut off, or a shard deleted: noticed when read, and mended by the next extraction.

    Args:
        extract: the extraction that made `features`, done again.
        features: a set.
        repetitions: damages.
        heal_every: after how many the extraction is done again, beside each deletion.
        seed: of the places.
    """
    figures, moments = Figures(), random.Random(seed)
    reference = rows_of(features)
    for number in range(repetitions):
        store = features.store
        path = store.folder / moments.choice(features.content.shards)
        whole = path.read_bytes()
        kind = "bit" if number % 20 else moments.choice(DAMAGES)
        if kind == "bit":
            bit = moments.randrange(len(whole) * 8)
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
        elif kind == "cut":
            path.write_bytes(whole[: moments.randrange(len(whole))])
        else:
            path.unlink()
        figures.repetitions += 1
        noticed = verify(features.path).faults > 0
        try:
            rows = rows_of(open_features(features.path))
            figures.wrong += sum(row != reference[digest] for digest, row in rows.items())
        except PermafrostError:
            pass
        figures.wrong += not noticed
        if number % heal_every == 0 or kind == "gone":
            features = extract(features.path)
            rows = rows_of(features)
            figures.lost += len(reference.keys() - rows.keys())
            figures.wrong += sum(row != reference[digest] for digest, row in rows.items())
            if path.exists() and path.name not in features.content.shards:
                path.unlink()
        else:
            path.write_bytes(whole)
    return figures


def together(program: Program, data: Path, work: Path, *, repetitions: int, close: float) -> Figures:
    """Two and four processes, by turns, that extract the same images into one store at the same time.

    Args:
        close: how far apart features may be: which images share a batch is a matter of chance here.
    """
    figures = Figures()
    reference_set = work / "reference" / "set.h5"
    assert finish(program, arguments_for(data, reference_set), work / "log", figures) == 0, (work / "log").read_text()
    x, _ = open_features(reference_set).arrays()
    shards = 0
    for number in range(repetitions):
        folder = work / f"run-{number}"
        outs = [folder / f"set-{each}.h5" for each in range((2, 4)[number % 2])]
        processes = [program.start(arguments_for(data, out), work / "log") for out in outs]
        figures.wrong += sum(end_of(program, process, figures) != 0 for process in processes)
        figures.repetitions += 1
        for out in outs:
            try:
                found, _ = open_features(out).arrays()
            except PermafrostError as error:
                figures.lost += 1
                figures.notes.setdefault("errors", []).append(str(error))
                continue
            figures.wrong += found.shape != x.shape or float(np.abs(found - x).max()) > close
        shards += len(list(folder.glob("store/*/*.h5")))
        figures.wrong += verify(folder).faults
        shutil.rmtree(folder)
    figures.notes["shards a store"] = round(shards / repetitions, 1)
    return figures


def readers(program: Program, data: Path, more: list[Path], work: Path, *, opens: int, close: float) -> Figures:
    """A set opened and read again and again while the dataset grows, and its shards are joined under it.

    Args:
        data: images at the beginning.
        more: images that are added, one each extraction.
        opens: how often the set is opened.
        close: how far apart features may be.
    """
    figures = Figures()
    out, everything = work / "features" / "set.h5", work / "all" / "set.h5"
    grown = Path(shutil.copytree(data, work / "grown"))
    for path in more:
        shutil.copy(path, grown / "class-0" / f"more-{path.name}")
    assert finish(program, arguments_for(grown, everything), work / "log", figures) == 0
    known = open_features(everything)
    reference = dict(zip((row.tobytes() for row in known.digests()), known.arrays()[0], strict=True))
    assert finish(program, arguments_for(data, out), work / "log", figures) == 0
    growing, waiting = Path(shutil.copytree(data, work / "growing")), list(more)
    process, sizes = None, set()
    while figures.repetitions < opens:
        if process is None or _ended(process):
            if process is not None:
                figures.wrong += end_of(program, process, figures) != 0
            if waiting:
                path = waiting.pop()
                shutil.copy(path, growing / "class-0" / f"more-{path.name}")
            process = program.start(arguments_for(growing, out), work / "log")
        figures.repetitions += 1
        try:
            features = open_features(out)
            x, _ = features.arrays()
        except PermafrostError as error:
            figures.lost += 1
            figures.notes.setdefault("errors", []).append(str(error))
            continue
        sizes.add(len(features))
        for digest, row in zip(features.digests(), x, strict=True):
            figures.wrong += bool(np.abs(row - reference[digest.tobytes()]).max() > close)
    if process is not None:
        figures.wrong += end_of(program, process, figures) != 0
    figures.notes |= {
        "different sets seen": len(sizes),
        "shards at the end": len(list(out.parent.glob("store/*/*.h5"))),
    }
    return figures


def table_line(name: str, figures: Figures) -> str:
    """A line of the table in `benchmarks/results.md`."""
    cells = (name, f"{figures.repetitions:,}", figures.lost, figures.wrong, figures.hung, json.dumps(figures.notes))
    return " ".join(f"| {cell}" for cell in cells) + " |"
