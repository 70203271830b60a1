"""`extract` with a trunk of a few lines of NumPy: without Keras, a whole process takes a tenth of a second.

Everything else is real: the command line, dataset, reading, decoding, batches, commits, the set.
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path

import h5py  # noqa: F401 - imported once here for all forked processes
import numpy as np
import PIL.Image
import tqdm  # noqa: F401

from permafrost import cli
from permafrost.atomic import replacing
from permafrost.cli import extract as _extract_command  # noqa: F401
from permafrost.extraction import extract as extraction
from permafrost.extraction import pipeline
from permafrost.extraction import writer as committing
from permafrost.trunk import cutting
from permafrost.trunk.cutting import Trunk
from samples import PX, spec_with

SPEC = spec_with(base="tiny", cut="blocks", shapes=((4, 4, 3),))
SLOT = 1e-5
"""Effect of an image's place in the batch on its features. With real engines it is the last bit."""


class TinyEngine:
    """An engine that computes means of blocks of pixels, 0 to 1, plus a trace of the place in the batch."""

    name = record = "tiny"
    streams, difference, why, converted = 1, None, "", None

    def __init__(self, batch_size: int, log: Path | None, delay: float) -> None:
        self.batch_size = batch_size
        self._log, self._delay = log, delay

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        time.sleep(self._delay)
        if self._log:
            with open(self._log, "a") as file:
                file.write(f"{len(pixels)}\n")
        step = PX // 4
        blocks = pixels.reshape(len(pixels), 4, step, 4, step, 3).mean(axis=(2, 4)) / 255
        return [(blocks + SLOT * np.arange(len(pixels))[:, None, None, None]).astype(np.float32)]


def use_tiny_trunk(*, log: Path | None = None, delay: float = 0.0, commit_seconds: float = 0.0) -> None:
    """Make this process extract with the tiny trunk.

    Args:
        log: file for the size of each batch, one per line.
        delay: additional seconds per batch.
        commit_seconds: interval between commits.
    """

    def save(trunk: Trunk, folder: Path) -> None:
        if not (folder / cutting.TRUNK_FILE).exists():
            with replacing(folder / cutting.TRUNK_FILE) as temporary, zipfile.ZipFile(temporary, "w") as file:
                file.writestr("config.json", b"a trunk" * 1000)

    committing.COMMIT_SECONDS = commit_seconds  # type: ignore[misc]
    pipeline.engine_for = lambda _, options, __: TinyEngine(options.batch_size or 32, log, delay)  # type: ignore[assignment]
    pipeline.cached_conversion = lambda _: None  # type: ignore[assignment]
    extraction.build_trunks_of = lambda *_, **__: [Trunk(None, SPEC, ("blocks",))]  # type: ignore[assignment]
    cutting.save_trunk = save  # type: ignore[assignment]


def run(arguments: list[str], log: str | None = None, delay: float = 0.0, commit_seconds: float = 0.0) -> int:
    """Run the command `extract` with the tiny trunk and return its exit status."""
    use_tiny_trunk(log=Path(log) if log else None, delay=delay, commit_seconds=commit_seconds)
    return cli.run(["extract", *arguments])


def run_and_record_memory(arguments: list[str], record: str) -> int:
    """Call `run` and write the peak memory of this process, in bytes, to the file `record`."""
    status = run(arguments)
    Path(record).write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    return status


def run_with_ctrl_c(arguments: list[str], moment: int) -> int:
    """Call `run` and interrupt it when the main thread acquires a future's lock for the `moment`th time."""
    enter, times, main_thread = threading.Condition.__enter__, itertools.count(), threading.get_ident()

    def enter_and_press(condition: threading.Condition) -> bool:
        entered = enter(condition)
        if threading.get_ident() == main_thread and next(times) == moment:
            signal.raise_signal(signal.SIGINT)
        return entered

    threading.Condition.__enter__ = enter_and_press  # type: ignore[method-assign]
    # A background shell ignores SIGINT, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(20)  # Ends a process that hangs, with another status.
    return run(arguments, delay=0.002)


def run_as_nobody(arguments: list[str]) -> int:
    """Call `run` as the user `nobody`."""
    PIL.Image.init()  # Before reading the decoders' own files is forbidden.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    return run(arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
