"""Whatever a table holds comes back, or is refused in one line; each row is an image or skipped with a reason."""

from __future__ import annotations

import csv
import io
import os
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from helpers import one_error_line
from permafrost.errors import DatasetError
from permafrost.images.tables.reading import read_table
from permafrost.images.tables.text import stripped

HEADERS = (
    ("path", "label", "split", "group"),
    ("filename", "class", "subset", "groups"),
    ("img", "target", "set", "group"),
)
SPLITS = {"": None, " ": None, "train": "train", "Val ": "validation", "TEST": "test"}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")

texts = st.text(max_size=8).filter(lambda text: stripped(text) and "\0" not in text)
names = texts.filter(lambda name: name not in (".", "..") and "/" not in name)
rows = st.tuples(names, texts, st.sampled_from(sorted(SPLITS)), texts | st.just(""))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not of pytest, so that names of any length are short enough.
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@hypothesis.settings(max_examples=150)
@hypothesis.given(data=st.data(), drawn=st.lists(rows, min_size=1, max_size=6, unique_by=lambda row: row[0]))
def test_rows_of_any_text_come_back_in_each_delimiter_quoting_and_encoding(folder, data, drawn):
    header = data.draw(st.sampled_from(HEADERS))
    delimiter, end = data.draw(st.sampled_from(",;\t|")), data.draw(st.sampled_from(("\n", "\r\n", "\r")))
    # The module leaves line ends that are not its own without quotes, and blanks that would belong to a quote.
    careful = any(mark in field for row in drawn for field in row for mark in ("\n", "\r", f'{delimiter} "'))
    quoting = csv.QUOTE_ALL if careful else data.draw(st.sampled_from((csv.QUOTE_ALL, csv.QUOTE_MINIMAL)))
    order = data.draw(st.permutations(range(4)))
    drawn.append(("last", "not a number", "", ""))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([row[at] for at in order] for row in [header, *drawn])
    (folder / "table.csv").write_bytes(text.getvalue().encode(data.draw(st.sampled_from(ENCODINGS))))
    for name, *_ in drawn:
        (folder / name).touch()

    entries = read_table(str(folder / "table.csv"))

    found = zip(entries.names, entries.labels, entries.splits, entries.groups, strict=True)
    assert list(found) == [
        (name, composed(label), SPLITS[split], composed(group) or None) for name, label, split, group in drawn
    ]
    assert entries.skipped == []
    assert read_table(str(folder / "table.csv")) == entries


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", stripped(text))


PATHS = (*(f"{number}.jpg" for number in range(9)), "./1.jpg", "a\\1.jpg", " 2.jpg", "http://x/1", "~/1", "é")
OTHERS = ("dog", "cat", "1.0", "2", "", "train", "test", '"x\ny"', '""', "query", " ", "é", "\udce9", "\0", '"', "1,2")
lines = st.tuples(st.sampled_from(PATHS), st.sampled_from(OTHERS[:4]), st.sampled_from(OTHERS[4:7])).map(",".join)
odd_lines = st.lists(st.sampled_from(PATHS + OTHERS), max_size=4).map(",".join)
ends = st.sampled_from(("\n", "\r\n", "\r", "\n\n", "\n , \n"))


@hypothesis.settings(max_examples=400)
@hypothesis.given(
    st.sampled_from(("path,label,split\n", "path,label,note\n", '"path";"label"\n', "")),
    st.lists(st.tuples(lines | lines | lines | lines | odd_lines, ends).map("".join), max_size=6),
)
def test_any_text_is_read_whole_or_refused_in_one_line(folder, header, drawn):
    text = header + "".join(drawn)
    path = folder / "any.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))

    try:
        entries = read_table(str(path))
    except DatasetError as error:
        assert str(path) in one_error_line(error)
        return

    delimiter = ";" if ";" in header else ","
    records = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=f'{delimiter} "' in text, strict=True
    )
    filled = [record for record in records if any(field.strip() for field in record)]
    assert len(entries.names) + len(entries.skipped) == len(filled) - 1
    assert all(reason for _, reason in entries.skipped)
    assert all(entries.names) and all(entries.labels)
    assert len({os.path.normpath(name) for name in entries.names}) == len(entries.names)
    assert read_table(str(path)) == entries
