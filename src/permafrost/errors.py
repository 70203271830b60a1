"""Errors that a user can correct: the request or its input is wrong.

Each prints as one line and ends a command with exit status 2. Any other exception is a bug and ends it with 1.

    PermafrostError
    ├── OptionError             an option has a wrong value, or two options contradict each other
    ├── DatasetError            the dataset cannot be read: no folder, no images, only one class, a bad table
    ├── ImageError              an image cannot be decoded
    ├── BaseError               an unknown base, or one that cannot be built as requested
    │   ├── WeightsError        weights are missing, do not fit, or are not finite
    │   └── CutError            an unknown layer, or one that cannot be cut at
    ├── EngineError             an engine is not installed, or does not agree with Keras
    ├── FeatureError            a feature is not finite
    ├── StoreError              the files of cached features cannot be used
    │   ├── ShardError          a shard is missing, damaged, or from another trunk
    │   ├── SetError            not a feature set, a damaged one, or one that does not match its store
    │   ├── VersionError        a store or feature set of another format version
    │   └── WriteError          a file cannot be written: full disk, no permission
    ├── HeadError               a head cannot be fitted to these features
    ├── ParityError             the exported model does not agree with the head or the trunk
    └── RunError                not a run, a damaged one, or a model that does not classify images
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PermafrostError(Exception):
    """Base class of all errors that a user can correct. Its text is one line.

    Args:
        what: what is wrong and where.
        expected: what was expected.
        found: what was found instead.
        do: what the user can do.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: object = None,
        found: object = None,
        do: str | None = None,
    ) -> None:
        self.what = what
        self.expected = expected
        self.found = found
        self.do = do
        super().__init__(self._line())

    def _line(self) -> str:
        parts = [self.what]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.found is not None:
            parts.append(f"found {self.found}")
        line = "; ".join([parts[0], ", ".join(parts[1:])] if parts[1:] else parts)
        if self.do:
            line += f". {self.do[0].upper()}{self.do[1:]}"
        return one_line(line)


class OptionError(PermafrostError):
    """An option has a wrong value, or two options contradict each other.

    The line says what is expected; `--help` lists the values.
    """


class DatasetError(PermafrostError):
    """The dataset cannot be read.

    docs/datasets.md says what datasets are; `--layout` where folders can be read in two ways.
    """


class ImageError(PermafrostError):
    """An image cannot be decoded.

    `extract` skips such images and lists them; `--on-bad fail` stops at the first.
    """


class BaseError(PermafrostError):
    """An unknown base, or one that cannot be built as requested.

    The line names the nearest bases, or what the base needs.
    """


class WeightsError(BaseError):
    """Weights are missing, do not fit, or are not finite.

    Without a network, put the named file where the line says, or pass it as `--weights`.
    """


class CutError(BaseError):
    """An unknown layer, or one that the base cannot be cut at.

    The line names the nearest layers.
    """


class EngineError(PermafrostError):
    """An engine is not installed, or does not agree with Keras.

    `--engine auto` uses Keras then, and says why.
    """


class FeatureError(PermafrostError):
    """A feature is not finite.

    `--precision float32`, `--dtype float32`, or other weights.
    """


class StoreError(PermafrostError):
    """The files of cached features cannot be used.

    Run the same `extract` again.
    """


class ShardError(StoreError):
    """A shard is missing, damaged, or from another trunk.

    Run the same `extract` again: it computes what is missing.
    """

    @property
    def kind(self) -> str:
        """The kind of error: `missing`, `damaged` or `foreign`, the first word of the line."""
        return self.what.split(" ", 1)[0]


class SetError(StoreError):
    """Not a feature set, a damaged one, or one that does not match its store.

    Move the set and the folder `store` together, or run `extract` again.
    """


class VersionError(StoreError):
    """A store or a feature set of another format version. It is left alone.

    Run `extract` again, which makes a new one beside it.
    """


class WriteError(StoreError):
    """A file cannot be written.

    Free some space, or choose another `--out`; existing files are intact.
    """


class HeadError(PermafrostError):
    """A head cannot be fitted to these features.

    The line says why, and which head can.
    """


class ParityError(PermafrostError):
    """The exported model does not agree with the head or the trunk.

    Nothing was written; the line says what to do.
    """


class RunError(PermafrostError):
    """Not a run, a damaged one, or a model that does not classify images.

    Fit again, or give the folder that `fit-head` or `finetune` made.
    """


def one_line(text: str) -> str:
    """Return a text with line breaks, other control characters and lone surrogates escaped."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


def listed(names: Iterable[str], maximum: int = 4) -> str:
    """Return names as text: the first ones, and the number of the others: `"a, b and 3 more"`."""
    names = list(names)
    more = len(names) - maximum
    return ", ".join(names[:maximum]) + (f" and {more:,} more" if more > 0 else "")


def nearest(name: str, names: Iterable[str], *, n: int = 3) -> str:
    """Return the names most similar to `name` as text for an error: `"mixed7, mixed8"`.

    Args:
        name: the unknown name.
        names: the known names.
        n: maximum number of names. The first ones are returned if none is similar.
    """
    names = list(names)
    close = difflib.get_close_matches(name, names, n=n, cutoff=0.4)
    return ", ".join(close or names[:n])
