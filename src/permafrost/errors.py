"""What can go wrong with a request or its input.

Every error here is the user's to mend, prints as one line, and ends a command with exit status 2.
Anything else that escapes is a bug and ends it with 1.

    PermafrostError
    ├── OptionError             an option's value, or two options together, make no sense
    ├── DatasetError            the dataset: no folder, no image, one class, a bad table
    ├── ImageError            one image that cannot be decoded
    ├── BaseError               a base that is unknown or cannot be built as asked
    │   ├── WeightsError        weights that are missing, do not fit, or are not finite
    │   └── CutError            a layer that is not there, or cannot be cut at
    ├── EngineError             an engine that is not there, or does not agree with Keras
    ├── FeatureError            a feature that is not finite
    ├── StoreError              the files that keep features
    │   ├── ShardError          a shard that is missing, damaged, or another trunk's
    │   ├── SetError            a feature set that is none, is damaged, or does not fit its store
    │   ├── VersionError        a store or feature set of another format version
    │   └── WriteError          a file that could not be written: disk full, no permission
    ├── HeadError               a head that cannot be fitted to these features
    ├── ParityError             an exported model that does not agree with what it was made of
    └── RunError                a run folder or model file that is none, or is damaged
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PermafrostError(Exception):
    """A request that cannot be met, told in one line.

    Args:
        what: the fault, with the name of the thing that has it.
        expected: what would have been right.
        found: what was there instead.
        do: what the user can do about it.
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
    """An option's value, or two options together, make no sense."""


class DatasetError(PermafrostError):
    """A dataset that cannot be listed."""


class ImageError(PermafrostError):
    """An image that cannot be decoded."""


class BaseError(PermafrostError):
    """A base that is unknown or cannot be built as asked."""


class WeightsError(BaseError):
    """Weights that are missing, do not fit, or are not finite."""


class CutError(BaseError):
    """A layer that is not in the base, or at which it cannot be cut."""


class EngineError(PermafrostError):
    """An engine that is not there, or does not agree with Keras."""


class FeatureError(PermafrostError):
    """A feature that is not finite."""


class StoreError(PermafrostError):
    """The files that keep features."""


class ShardError(StoreError):
    """A shard that is missing, damaged, or another trunk's."""

    @property
    def kind(self) -> str:
        """What is wrong: `missing`, `damaged` or `foreign`, the first word of the line."""
        return self.what.split(" ", 1)[0]


class SetError(StoreError):
    """A feature set that is none, is damaged, or does not fit its store."""


class VersionError(StoreError):
    """A store or a feature set of another format version. It is left alone."""


class WriteError(StoreError):
    """A file that could not be written."""


class HeadError(PermafrostError):
    """A head that cannot be fitted to these features."""


class ParityError(PermafrostError):
    """An exported model that does not agree with what it was made of."""


class RunError(PermafrostError):
    """A run folder or a model file that is none, or is damaged."""


def one_line(text: str) -> str:
    """`text` with line breaks and other control characters escaped, and lone surrogates made printable."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


def nearest(name: str, names: Iterable[str], *, n: int = 3) -> str:
    """The names most like `name`, as text for an error: `"mixed7, mixed8"`; all when there are few."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=n, cutoff=0.4)
    return ", ".join(close or names[:n])
