"""Any class name can be written to the file of class names and read again."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers import one_error_line
from permafrost.errors import RunError
from permafrost.model.labels import labels_bytes, read_labels

NAMES = [
    *("plain", "a, b", 'say "hi"', "'x'", " leading", "trailing ", "no\N{NO-BREAK SPACE}break", "猫", "\U0001f98a"),
    *("two\nlines", "cr\rlf", "ends\r", "\x0b\x0c\x1c\x85", "\u2028\u2029", "\u200fright to left", "\ufefffirst"),
    *('"quoted"', '"json \\u00e9"', '"', "nan", "", "caf\udce9", "\udcc3\udca9", "\ud800", "NUL\0", "\\xa0", "#1"),
]
"""Names that are easily changed on their way through a text file."""


def read_back(folder: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    path = folder / "labels.txt"
    path.write_bytes(labels_bytes(names))
    return read_labels(path)


@given(st.lists(st.text(st.characters(exclude_categories=[])).filter(lambda name: _is_stable(name))).map(tuple))
@example(tuple(NAMES))
@example(("\ufefffirst", "second"))
@example(("last", ""))
def test_any_names_are_read_as_they_were_written(tmp_path_factory, names):
    assert read_back(tmp_path_factory.getbasetemp(), names) == names


def _is_stable(name: str) -> bool:
    """Return whether a name has no two surrogates that JSON would join to one character."""
    return not any("\ud800" <= a <= "\udbff" and "\udc00" <= b <= "\udfff" for a, b in itertools.pairwise(name))


@pytest.mark.parametrize("name", ["no\N{NO-BREAK SPACE}break", "\u2028", "\x85", "a, b", " x", '"', "\U0001f98a"])
def test_a_name_without_a_line_break_is_written_as_it_is(name):
    assert labels_bytes([name]) == name.encode() + b"\n"


def test_bytes_of_a_file_name_that_are_not_utf_8_are_written_as_they_are():
    assert labels_bytes(["caf\udce9"]) == b"caf\xe9\n"


def test_a_name_with_a_line_break_takes_one_line():
    assert labels_bytes(["a\nb", "c d"]) == b'"a\\nb"\nc d\n'


@pytest.mark.parametrize(
    "content",
    [b"a\nb", b"a\r\nb\r\n", b"\xef\xbb\xbfa\nb\n", b"a\nb\n\n\n"],
    ids=["no end", "crlf", "bom", "blank end"],
)
def test_a_file_that_an_editor_has_saved_is_read(tmp_path, content):
    (tmp_path / "labels.txt").write_bytes(content)

    assert read_labels(tmp_path / "labels.txt") == ("a", "b")


def test_a_file_that_cannot_be_read_is_one_error_line(tmp_path):
    with pytest.raises(RunError) as caught:
        read_labels(tmp_path)

    assert one_error_line(caught.value) == f"cannot read {tmp_path}: Is a directory"
