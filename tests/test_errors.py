"""Errors are one line: what is wrong, expected, found, what to do."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from permafrost import errors
from permafrost.errors import DatasetError, PermafrostError, nearest, one_line

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PermafrostError)]


def test_an_error_gives_what_is_wrong_expected_found_and_what_to_do():
    error = DatasetError("only one class in photos", expected="at least two", found="cats", do="add a folder")

    assert str(error) == "only one class in photos; expected at least two, found cats. Add a folder"
    assert (error.what, error.expected, error.found, error.do) == (
        "only one class in photos",
        "at least two",
        "cats",
        "add a folder",
    )


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({}, "it is wrong"),
        ({"expected": 1}, "it is wrong; expected 1"),
        ({"found": 0}, "it is wrong; found 0"),
        ({"do": "mend it"}, "it is wrong. Mend it"),
    ],
)
def test_unknown_parts_are_omitted(parts, line):
    assert str(PermafrostError("it is wrong", **parts)) == line


@given(st.text())
def test_an_error_is_printable_on_one_line_whatever_text_it_contains(text):
    line = str(PermafrostError(text, found=text))

    assert line.isprintable()
    assert line.encode("utf-8")


def test_bytes_that_are_not_text_are_escaped():
    assert one_line("caf\udce9\n.jpg") == r"caf\udce9\n.jpg"


@given(st.text(st.characters(categories=["L", "N", "P"])))
def test_printable_text_is_not_changed(text):
    assert one_line(text) == text


def test_every_error_is_a_documented_permafrost_error():
    assert len(CLASSES) > 10
    for kind in CLASSES:
        assert kind.__doc__
        assert str(kind("it is wrong", do="mend it")) == "it is wrong. Mend it"


def test_the_tree_in_the_docstring_is_the_class_hierarchy():
    drawn, path = {}, []
    for marks, name in re.findall(r"^    ([ │├└─]*)(\w+)", errors.__doc__, flags=re.M):
        path[len(marks) // 4 :] = [name]
        drawn[name] = path[-2] if len(path) > 1 else "Exception"

    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in CLASSES}


def test_the_most_similar_names_come_first():
    assert nearest("mixd7", ["conv2d", "mixed7", "mixed10", "activation"]).startswith("mixed7")


def test_the_first_names_are_returned_if_none_is_similar():
    assert nearest("zzz", ["block1", "block2", "block3", "block4"]) == "block1, block2, block3"
    assert nearest("zzz", []) == ""
