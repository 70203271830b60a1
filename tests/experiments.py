"""The experiments behind `benchmarks/results.md`: real processes killed, real disks full, real bytes changed.

Each function takes the number of repetitions and returns what was lost, wrong or hung. The ordinary suite repeats them
tens of times; `bin/test -m slow tests/test_reliability.py` repeats them as often as the page says and prints its table.
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
class Outcome:
    """The outcome of an experiment.

    Attributes:
        repetitions: number of repetitions.
        lost: committed rows that were gone.
        wrong: rows with a wrong value, unreadable files, and ends without a clear line.
        hung: processes that did not end.
        notes: other counts.
    """

    repetitions: int = 0
    lost: int = 0
    wrong: int = 0
    hung: int = 0
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def faultless(self) -> bool:
        return (self.lost, self.wrong, self.hung) == (0, 0, 0) and self.repetitions > 0


class Program(Protocol):
    """A way to start `extract` as a separate process."""

    def start(self, arguments: list[str], output: Path) -> int: ...

    def wait(self, process: int) -> int: ...


@dataclasses.dataclass(frozen=True)
class Tiny:
    """`tiny_extract` in forked processes."""

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
    """`extract` with a Keras base, forked from a process that has loaded the libraries.

    Attributes:
        nursery: a nursery that has imported `HEAVY`.
        base: a `.keras` file.
    """

    nursery: Nursery
    base: Path

    def start(self, arguments: list[str], output: Path) -> int:
        """See `Program`."""
        return self.nursery.start(
            "permafrost.cli.run", ["extract", *arguments, "--base", str(self.base)], output=output
        )

    def wait(self, process: int) -> int:
        """See `Program`."""
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
    """Write small, different images of noise in three classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class-{number % 3}" / f"{number:05}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(generator.integers(0, 256, (PX, PX, 3), dtype=np.uint8)))
    return folder


def arguments_for(data: Path, out: Path, *more: str) -> list[str]:
    return [str(data), "--out", str(out), "--batch-size", "8", "--no-progress", *more]


def rows_of(features: FeatureSet) -> dict[bytes, bytes]:
    """Return the bytes of each image's features by content digest."""
    x, _ = features.arrays()
    return {digest.tobytes(): row.tobytes() for digest, row in zip(features.digests(), x, strict=True)}


def stored_rows(store_folder: Path) -> tuple[dict[bytes, bytes], int]:
    """Return all rows in a store by content digest, each checked, and the number of unreadable shards."""
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
    """Return the store below a folder of sets; a nonexistent path if there is no store."""
    return next((folder / "store").glob("*"), folder / "store" / "none")


def finish(program: Program, arguments: list[str], output: Path, outcome: Outcome) -> int:
    """Start a process, wait for its end, and return its exit status."""
    return end_of(program, program.start(arguments, output), outcome)


def extracted(program: Program, data: Path, out: Path, outcome: Outcome) -> FeatureSet:
    """Extract images undisturbed and return the set."""
    output = out.parent.with_name("log")
    assert finish(program, arguments_for(data, out), output, outcome) == 0, output.read_text()
    return open_features(out)


def end_of(program: Program, process: int, outcome: Outcome) -> int:
    """Wait for a process and return its exit status; kill it and count it as hung after `LIMIT`."""
    limit = time.monotonic() + LIMIT
    while not _ended(process):
        if time.monotonic() > limit:
            outcome.hung += 1
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
) -> Outcome:
    """Kill `extract` at random moments: committed rows stay, and the same command gives the uninterrupted result.

    Args:
        program: how to start `extract`.
        data: images.
        work: an empty folder.
        repetitions: number of kills.
        longest: maximum seconds from the start, or from the first commit, to the kill.
        log: file to which the program writes the sizes of its batches.
        seed: seed of the moments.
    """
    outcome, moments = Outcome(), random.Random(seed)
    reference = rows_of(extracted(program, data, work / "reference" / "set.h5", outcome))
    again = completed = 0
    for number in itertools.count():
        if outcome.repetitions >= repetitions:
            break
        folder = work / f"run-{number}"
        arguments = arguments_for(data, folder / "set.h5")
        if log:
            log.unlink(missing_ok=True)
        before, known = outcome.repetitions, dict[bytes, bytes]()
        while outcome.repetitions < repetitions and _kill(program, arguments, folder, moments, longest, outcome):
            now, unreadable = stored_rows(only_store(folder))
            outcome.lost += len(known.keys() - now.keys())
            outcome.wrong += unreadable + sum(reference.get(digest) != row for digest, row in now.items())
            outcome.notes["left-over files"] = outcome.notes.get("left-over files", 0) + len(_all_leftovers(folder))
            known = now
        killed = outcome.repetitions - before
        if finish(program, arguments, work / "log", outcome) != 0:
            outcome.wrong += 1
            continue
        completed += 1
        rows = rows_of(open_features(folder / "set.h5"))
        outcome.lost += len(reference.keys() - rows.keys())
        outcome.wrong += sum(rows[digest] != row for digest, row in reference.items() if digest in rows)
        outcome.wrong += len(_all_leftovers(folder))
        if log and killed:
            again = max(again, (sum(map(int, log.read_text().split())) - len(reference)) / killed)
        shutil.rmtree(folder)
    outcome.notes |= {"runs ended": completed}
    if log:
        outcome.notes["computed again per kill, at most, mean of a run"] = again
    return outcome


def _kill(
    program: Program, arguments: list[str], folder: Path, moments: random.Random, longest: float, outcome: Outcome
) -> bool:
    """Start an extraction into `folder` and kill it; return and count whether it was killed before it had finished."""
    process = program.start(arguments, folder.with_name("log"))
    if moments.random() < 0.5:
        _wait_for_rows(folder, process)
    time.sleep(moments.uniform(0, longest))
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    killed = end_of(program, process, outcome) != 0
    outcome.repetitions += killed
    return killed


def _wait_for_rows(folder: Path, process: int) -> None:
    """Wait until a process has committed rows or ended."""

    def shards() -> int:
        return len(list(only_store(folder).glob("[0-9a-f]*.h5")))

    limit, before = time.monotonic() + LIMIT, shards()
    while time.monotonic() < limit and shards() <= before and not _ended(process):
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
    """Mount a file system of `size` bytes; yield a function that enlarges it, or None without the right to mount."""
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


def full_disks(program: Program, data: Path, work: Path, *, repetitions: int, seed: int = 0) -> Outcome | None:
    """Fill the file system at `repetitions` points of a run: one clear line, and committed rows are whole.

    Returns:
        None if no file system can be mounted.
    """
    outcome, moments = Outcome(), random.Random(seed)
    reference_set = extracted(program, data, work / "reference" / "set.h5", outcome)
    reference = rows_of(reference_set)
    # A tmpfs counts pages of 4 KiB.
    most = used = sum(-(-path.stat().st_size // 4096) * 4096 for path in reference_set.path.parent.rglob("*"))
    clear = 0
    for point in itertools.count():
        if outcome.repetitions == repetitions:
            break
        disk, output = work / f"disk-{point}", work / f"log-{point}"
        size = moments.randrange(most) // 4096 * 4096
        with small_disk(disk, 8192 + size) as grow:
            if grow is None:
                return None
            arguments = arguments_for(data, disk / "set.h5")
            status = finish(program, arguments, output, outcome)
            if status == 0:
                most = size  # It fits, so it also fits into more.
                continue
            outcome.repetitions += 1
            line = output.read_text().strip()
            if status == 2 and "\n" not in line and "No space left on device" in line:
                clear += 1
            else:
                outcome.wrong += 1
                outcome.notes.setdefault("ends", []).append((status, line[-300:]))
            rows, unreadable = stored_rows(only_store(disk))
            outcome.wrong += unreadable + sum(reference[digest] != row for digest, row in rows.items())
            grow(4 * used + 2**20)
            if finish(program, arguments, output, outcome) != 0:
                outcome.wrong += 1
                continue
            again = rows_of(open_features(disk / "set.h5"))
            outcome.lost += len(reference.keys() - again.keys())
            outcome.wrong += sum(again[digest] != row for digest, row in reference.items() if digest in again)
    outcome.notes["clear errors"] = clear
    return outcome


DAMAGES = ("bit", "cut", "gone")


def damages(
    extract: Callable[[Path], FeatureSet], features: FeatureSet, *, repetitions: int, heal_every: int, seed: int = 0
) -> Outcome:
    """Flip a bit, cut off the end, or delete a shard: reading reports it, and the next extraction repairs it.

    Args:
        extract: runs the extraction that made `features` again.
        features: a set.
        repetitions: number of damages.
        heal_every: number of damages after which the extraction runs again; it also runs after each deletion.
        seed: seed of the positions.
    """
    outcome, moments = Outcome(), random.Random(seed)
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
        outcome.repetitions += 1
        noticed = verify(features.path).faults > 0
        try:
            rows = rows_of(open_features(features.path))
            outcome.wrong += sum(row != reference[digest] for digest, row in rows.items())
        except PermafrostError:
            pass
        outcome.wrong += not noticed
        if number % heal_every == 0 or kind == "gone":
            features = extract(features.path)
            rows = rows_of(features)
            outcome.lost += len(reference.keys() - rows.keys())
            outcome.wrong += sum(row != reference[digest] for digest, row in rows.items())
            if path.exists() and path.name not in features.content.shards:
                path.unlink()
        else:
            path.write_bytes(whole)
    return outcome


def together(program: Program, data: Path, work: Path, *, repetitions: int, close: float) -> Outcome:
    """Extract the same images into one store from two and from four processes at the same time.

    Args:
        close: permitted difference of features: chance decides which images share a batch.
    """
    outcome = Outcome()
    x, _ = extracted(program, data, work / "reference" / "set.h5", outcome).arrays()
    shards = 0
    for number in range(repetitions):
        folder = work / f"run-{number}"
        outs = [folder / f"set-{each}.h5" for each in range((2, 4)[number % 2])]
        processes = [program.start(arguments_for(data, out), work / "log") for out in outs]
        outcome.wrong += sum(end_of(program, process, outcome) != 0 for process in processes)
        outcome.repetitions += 1
        for out in outs:
            try:
                found, _ = open_features(out).arrays()
            except PermafrostError as error:
                outcome.lost += 1
                outcome.notes.setdefault("errors", []).append(str(error))
                continue
            outcome.wrong += found.shape != x.shape or float(np.abs(found - x).max()) > close
        shards += len(list(folder.glob("store/*/*.h5")))
        outcome.wrong += verify(folder).faults
        shutil.rmtree(folder)
    outcome.notes["shards per store"] = round(shards / repetitions, 1)
    return outcome


def readers(program: Program, data: Path, more: list[Path], work: Path, *, opens: int, close: float) -> Outcome:
    """Open and read a set repeatedly while its dataset grows and its shards are merged.

    Args:
        data: images at the beginning.
        more: images to add, one per extraction.
        opens: number of times to open the set.
        close: permitted difference of features.
    """
    outcome = Outcome()
    out = work / "features" / "set.h5"
    grown = Path(shutil.copytree(data, work / "grown"))
    for path in more:
        shutil.copy(path, grown / "class-0" / f"more-{path.name}")
    known = extracted(program, grown, work / "all" / "set.h5", outcome)
    reference = dict(zip((row.tobytes() for row in known.digests()), known.arrays()[0], strict=True))
    extracted(program, data, out, outcome)
    growing, waiting = Path(shutil.copytree(data, work / "growing")), list(more)
    process, sizes = None, set()
    while outcome.repetitions < opens:
        if process is None or _ended(process):
            if process is not None:
                outcome.wrong += end_of(program, process, outcome) != 0
            if waiting:
                path = waiting.pop()
                shutil.copy(path, growing / "class-0" / f"more-{path.name}")
            process = program.start(arguments_for(growing, out), work / "log")
        outcome.repetitions += 1
        try:
            features = open_features(out)
            x, _ = features.arrays()
        except PermafrostError as error:
            outcome.lost += 1
            outcome.notes.setdefault("errors", []).append(str(error))
            continue
        sizes.add(len(features))
        for digest, row in zip(features.digests(), x, strict=True):
            outcome.wrong += bool(np.abs(row - reference[digest.tobytes()]).max() > close)
    if process is not None:
        outcome.wrong += end_of(program, process, outcome) != 0
    outcome.notes |= {
        "different sets seen": len(sizes),
        "shards at the end": len(list(out.parent.glob("store/*/*.h5"))),
    }
    return outcome


def table_line(name: str, outcome: Outcome) -> str:
    """Return a line of the table in `benchmarks/results.md`."""
    cells = (name, f"{outcome.repetitions:,}", outcome.lost, outcome.wrong, outcome.hung, json.dumps(outcome.notes))
    return " ".join(f"| {cell}" for cell in cells) + " |"
