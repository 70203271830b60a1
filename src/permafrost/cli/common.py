"""What the commands share: options, the form of what they print, and quiet libraries."""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import click

from permafrost.errors import one_line
from permafrost.units import size as size


def command(name: str, summary: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a click command of a function, with `--json` and `--debug`, its libraries kept quiet.

    Args:
        name: of the command.
        summary: the first line of its help.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def quiet(*args: Any, debug: bool, **options: Any) -> Any:
            if debug:
                return function(*args, **options)
            with quiet_libraries():
                return function(*args, **options)

        wrapped = click.option("--debug", is_flag=True, help="Show tracebacks, and what the libraries print.")(quiet)
        wrapped = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(
            wrapped
        )
        return click.command(name, help=f"{summary}\n\n{_help_of(function)}", short_help=summary)(wrapped)

    return decorate


def show(value: Any, lines: Sequence[str], *, as_json: bool) -> None:
    """Print a result: as one JSON object, or as lines."""
    if as_json:
        click.echo(json.dumps(value))
    else:
        for line in lines:
            click.echo(one_line(line))


def split_fractions(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how images without a split are divided."""
    shares = (
        ("validation", "Share for validation of images for which the dataset names no split.  [default: 0.15]"),
        ("test", "Share for test of such images.  [default: 0.15]"),
    )
    for name, text in reversed(shares):
        function = click.option(f"--{name}-fraction", type=float, help=text)(function)
    return function


def progress_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option that turns progress bars off; they go to standard error, and only to a terminal."""
    return click.option("--progress/--no-progress", default=True, help="Draw progress bars on a terminal.")(function)


class ImageSize(click.ParamType[tuple[int, int]]):
    """An image size: `150`, or `120x160`, height and width."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[int, int]:
        """Height and width of `value`."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value).strip().lower())
        if not match or not int(match[1]) or (match[2] and not int(match[2])):
            self.fail(f"expected a number of pixels, or HEIGHTxWIDTH, found {value}", param, context)
        return int(match[1]), int(match[2] or match[1])


def figures_line(name: str, figures: dict[str, Any]) -> str:
    """A split's figures as one line: `test: accuracy 0.9733 (0.960 to 0.985), balanced 0.9733, 600 images`."""
    if not figures.get("n"):
        return f"{name}: no images"
    low, high = figures.get("intervals", {}).get("accuracy", (None, None))
    between = "" if low is None else f" ({low:.3f} to {high:.3f})"
    return (
        f"{name}: accuracy {figures['accuracy']:.4f}{between}, "
        f"balanced {figures['balanced_accuracy']:.4f}, {figures['n']:,} images"
    )


def absent_lines(name: str, figures: dict[str, Any]) -> list[str]:
    """A warning where a split has images, but none of some classes; as lines."""
    absent = [label for label, values in figures.get("classes", {}).items() if not values["n"]]
    if not absent:
        return []
    shown = ", ".join(map(one_line, absent[:10])) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
    return [f"warning: {name} has no images of {shown}: recall of them is n/a, and balanced accuracy leaves them out"]


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """What the check of an exported model found, as lines."""
    found = f"parity: largest difference {parity['resized_max_difference']:.1e} on {parity['images']}"
    if parity["synthetic"]:
        return [f"{found} made-up images, as none of the dataset's are where they were"]
    return [f"{found} images; at full size {parity['full_size_equal_labels']:.1%} of the labels are equal"]


def copies_lines(copies: dict[str, Any], *, most: int | None = 10) -> list[str]:
    """What there is to say about copies of one image, as lines; at most so many groups of them.

    Args:
        copies: what `FeatureSet.describe_copies` gives.
        most: all of them if None.
    """
    if not copies["groups"]:
        return []
    told = [
        f"copies: {copies['across_splits']:,} images lie in two splits or more, which inflates the score; "
        f"{copies['across_labels']:,} have two labels or more"
    ]
    for group in copies["groups"][:most]:
        told.append("  " + " = ".join(f"{each['path']} ({each['split']}, {each['label']})" for each in group))
    if most is not None and len(copies["groups"]) > most:
        told.append(f"  and {len(copies['groups']) - most:,} more; `permafrost features show` lists them")
    return told


def duration(seconds: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' chatter off standard error, which is for progress and for the one line of an error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    finder = _QuietFinder()
    sys.meta_path.insert(0, finder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.meta_path.remove(finder)


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Has TensorFlow imported with standard error put aside: its C++ part writes there before any setting is read."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with _standard_error_aside():
            self._loader.exec_module(module)


@contextlib.contextmanager
def _standard_error_aside() -> Iterator[None]:
    """Put what is written to standard error, from C++ too, into a file; print it after all where the block fails."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except Exception:  # Not for Ctrl-C, of which these lines say nothing.
            aside.seek(0)
            os.write(real, aside.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)


def _help_of(function: Callable[..., Any]) -> str:
    """A function's docstring without its first line, which is the summary."""
    lines = (function.__doc__ or "").strip().splitlines()[1:]
    return "\n".join(line.removeprefix("    ") for line in lines).strip()
