"""`extract` with a trunk of a few lines of NumPy: a whole process takes a tenth of a second, since Keras is not loaded.

All else is the real thing: the command line, dataset, reading, decoding, batches, commits, the set.
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

import h5py  # noqa: F401 - imported here, once, for all processes that are forked from one that has this module
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
"""How much an image's features depend on its place in the batch, as on real engines; there it is the last bit."""


class TinyEngine:
    """Means of blocks of pixels, from 0 to 1, and a trace of the place in the batch."""

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
    """Have this process extract with the tiny trunk.

    Args:
        log: where each batch's size is written, a line each.
        delay: seconds that a batch takes longer.
        commit_seconds: how often what is finished is committed.
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
    """Run the command line `extract` with the tiny trunk; its exit status."""
    use_tiny_trunk(log=Path(log) if log else None, delay=delay, commit_seconds=commit_seconds)
    return cli.run(["extract", *arguments])


def run_and_say_memory(arguments: list[str], told: str) -> int:
    """As `run`; the most memory that this process had, in bytes, is written to the file `told`."""
    status = run(arguments)
    Path(told).write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    return status


def run_with_ctrl_c(arguments: list[str], moment: int) -> int:
    """As `run`; Ctrl-C is pressed when the main thread has just taken a future's lock, for the how-manieth time."""
    enter, times, main_thread = threading.Condition.__enter__, itertools.count(), threading.get_ident()

    def enter_and_press(condition: threading.Condition) -> bool:
        entered = enter(condition)
        if threading.get_ident() == main_thread and next(times) == moment:
            signal.raise_signal(signal.SIGINT)
        return entered

    threading.Condition.__enter__ = enter_and_press  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A suite in a shell's background would ignore it.
    signal.alarm(20)  # One that hangs is ended, and has another status.
    return run(arguments, delay=0.002)


def run_as_nobody(arguments: list[str]) -> int:
    """As `run`, with the rights of a user who owns nothing."""
    PIL.Image.init()  # While the decoders' own files may be read.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    return run(arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
