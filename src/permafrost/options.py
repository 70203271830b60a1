"""Options as fields of a record: the field owns the default, the limits, the help and the documentation.

The command line (`permafrost.cli.options`), `docs/commands.md` and the docstrings of the public functions are generated
from these fields, so an option is described once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import os
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from permafrost.errors import OptionError

_KEY: Final = "option"
_Documented = TypeVar("_Documented", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """The metadata of an option, attached to its field.

    Attributes:
        help: one or two sentences for `--help` and the documentation.
        default: text shown instead of the default value, e.g. "the base's own" for None.
        metavar: a placeholder for the value on the command line.
        choices: the permitted strings; any if empty.
        minimum, maximum: the permitted range of a number, both included; None for no limit.
        above, below: limits that are not included; None for no limit.
    """

    help: str
    default: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None

    @property
    def range(self) -> str:
        """The permitted range of a number in words, e.g. "at least 0, less than 1"."""
        parts = (
            ("at least", self.minimum),
            ("more than", self.above),
            ("at most", self.maximum),
            ("less than", self.below),
        )
        given = [(words, limit) for words, limit in parts if limit is not None]
        return ", ".join(
            f"{words} {limit:,.0f}" if limit == int(limit) else f"{words} {limit:g}" for words, limit in given
        )

    def allows(self, value: float) -> bool:
        """Return whether a number is in the permitted range; NaN is in no limited range."""
        if not self.range:
            return True
        return (
            math.isfinite(value)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def option(default: Any, help: str, *, shown: str | None = None, **limits: Any) -> Any:
    """Declare an option as a dataclass field.

    Args:
        default: the default value.
        help: as in `Description`.
        shown: as `default` in `Description`.
        **limits: further fields of `Description`.
    """
    return dataclasses.field(default=default, metadata={_KEY: Description(help=help, default=shown, **limits)})


def descriptions(record: Any) -> dict[str, Description]:
    """Return the options of a record class (or of an instance) by field name, in order."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(record) if _KEY in field.metadata}


def type_of(record: type, name: str) -> type:
    """Return the type of a record's field, without `None`.

    A field that holds a tuple, or one of several types, counts as `str`: the record parses its text.
    """
    annotation = typing.get_type_hints(record)[name]
    if isinstance(annotation, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        annotation = members[0] if len(members) == 1 else str
    return annotation if annotation in (bool, int, float, str) else str


def check(record: Any) -> None:
    """Check the options of a record against their types, choices and ranges; call it from `__post_init__`.

    Numbers of NumPy, and whole numbers given as floats, become plain ones.

    Raises:
        OptionError: a value is not permitted.
    """
    hints = typing.get_type_hints(type(record))
    for name, description in descriptions(record).items():
        value = checked(name, getattr(record, name), hints[name])
        object.__setattr__(record, name, value)  # The record is frozen, and still being made.
        if value is None:
            continue
        if description.choices and value not in description.choices:
            raise OptionError(f"unknown {name}", expected=_either(description.choices), found=value)
        if description.range and not description.allows(value):
            raise OptionError(f"{name} is out of range", expected=description.range, found=value)


def checked(name: str, value: Any, annotation: Any) -> Any:
    """Return a value as its annotation has it; values of annotations that are not in `_KINDS` are checked elsewhere.

    Raises:
        OptionError: the value is of another type, or a number that is not finite.
    """
    if not isinstance(value, numbers.Number) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # A boolean or an array of NumPy.
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    words = []
    for member in members:
        if member is type(None):
            if value is None:
                return None
            continue
        kind = typing.get_origin(member) or member
        if kind is tuple:
            (_, word, convert), *_ = (_KINDS[each] for each in typing.get_args(member) if each is not ...)
            if isinstance(value, tuple | list):
                with contextlib.suppress(TypeError):
                    return tuple(convert(each) for each in value)
        elif kind in _KINDS:
            word, _, convert = _KINDS[kind]
            with contextlib.suppress(TypeError):
                return convert(value)
        else:
            return value
        words.append(word)
    raise OptionError(f"{name} has a wrong value", expected=_either(words), found=repr(value))


def _as(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError
    return value if isinstance(value, int) else float(value)


def _whole(value: Any) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if not _number(value).is_integer():
        raise TypeError
    return int(value)


_KINDS: Final[dict[Any, tuple[str, str, Callable[[Any], Any]]]] = {
    bool: ("True or False", "True or False", lambda value: _as(bool, value)),
    int: ("a whole number", "whole numbers", _whole),
    float: ("a number", "numbers", _number),
    str: ("text", "names", _text),
    os.PathLike: ("a path", "paths", lambda value: _as(os.PathLike, value)),
}
"""What a type is called, alone and in a sequence, and a function that converts a value or raises TypeError."""


def as_path(value: Any, what: str) -> Path:
    """Return a path that a user gave, with the home folder in place of `~`, which only a shell knows.

    Args:
        value: the path.
        what: what it should be, for the error: "a feature set".

    Raises:
        OptionError: it is not a path, or it is empty, which the system takes for the current folder.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in os.fspath(value):
        found = repr(value) if isinstance(value, str | bytes | os.PathLike) else type(value).__name__
        raise OptionError(f"not the path of {what}", found=found)
    return Path(os.path.expanduser(value))


def documented(*records: Any, leave_out: Sequence[str] = ()) -> Callable[[_Documented], _Documented]:
    """Replace the line `**options:` in a docstring with one entry per option of the records.

    Args:
        *records: record classes, in order; or instances, whose values are the defaults.
        leave_out: options that the docstring describes itself, or that the function does not take.
    """

    def decorate(function: _Documented) -> _Documented:
        marker = "        **options: documented from the fields.\n"
        entries = "".join(
            _entry(name, description, getattr(record, name, None))
            for record in records
            for name, description in descriptions(record).items()
            if name not in leave_out
        )
        function.__doc__ = (function.__doc__ or "").replace(marker, entries)
        return function

    return decorate


def _entry(name: str, description: Description, default: Any) -> str:
    shown = description.default or ("none" if default is None else repr(default))
    limits = f" One of {', '.join(description.choices)}." if description.choices else ""
    text = f"{name}: {description.help}{limits} Default: {shown}."
    return textwrap.fill(text, 112, initial_indent=" " * 8, subsequent_indent=" " * 12) + "\n"


def _either(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"
