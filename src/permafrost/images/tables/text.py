"""The text of a table: its encoding, and its records with the lines where they start."""

from __future__ import annotations

import codecs
import contextlib
import csv
import os
from collections.abc import Iterable, Iterator
from typing import Final, TextIO

from permafrost.errors import DatasetError, listed
from permafrost.images.entries import read_errors

MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Starts as that of UTF-16 does.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and the encodings that they mean."""

ZEROS: Final[dict[tuple[bool, ...], str]] = {
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
}
"""Which of the first four bytes are zero in a text that starts with ASCII characters."""

FOREIGN: Final = (
    (b"PK\x03\x04", "a workbook or an archive"),
    (b"\xd0\xcf\x11\xe0", "a workbook"),
    (b"\x1f\x8b", "compressed"),
)
"""How files start that are often called tables and are not text."""

INVISIBLE: Final = "\u200b\u200e\u200f\u2060\ufeff"
"""Characters without a width that spreadsheets and web pages leave around a text."""

PIECE: Final = 2**20
"""Characters that are searched at once."""


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text by its first four bytes; UTF-8 if they do not say."""
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding
    return ZEROS.get(tuple(byte == 0 for byte in start[:4]), "utf-8")


@contextlib.contextmanager
def open_text(path: str) -> Iterator[TextIO]:
    """Open a table as text with its line ends; bytes that are not UTF-8 become surrogates (PEP 383).

    Raises:
        DatasetError: the file cannot be read, now or in the block, or is not in the encoding that its start says.
    """
    with read_errors(path):
        if not os.path.isfile(path):  # To open a FIFO without a writer would hang.
            raise DatasetError(f"{path} is not a regular file")
        with open(path, "rb") as file:
            start = file.read(4)
        for mark, kind in FOREIGN:
            if start.startswith(mark):
                raise DatasetError(f"{path} is not text but {kind}", do="save it as CSV UTF-8")
        encoding = encoding_of(start)
        try:
            with open(path, newline="", encoding=encoding, errors="surrogateescape") as text:
                yield text
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"cannot read {path} as {error.encoding.upper()}", found=error.reason, do="save it as CSV UTF-8"
            ) from error


def contains(file: TextIO, text: str) -> bool:
    """Return whether a text occurs in a file from its current position on."""
    end = ""
    while piece := file.read(PIECE):
        if text in end + piece:
            return True
        end = piece[-len(text) :]
    return False


def read_records(
    file: TextIO, path: str, *, delimiter: str, blanks: bool = False, line: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """Yield each record from the file's current position on, and the number of the line where it starts.

    Args:
        file: the table.
        path: its path, for errors.
        delimiter: what separates fields.
        blanks: whether blanks before a quote are skipped.
        line: the number of the line at the current position.

    Raises:
        DatasetError: a quote is not closed, or a field is too long.
    """
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=blanks, strict=True)
    before, start = line - 1, line
    try:
        for record in reader:
            yield start, record
            start = before + reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(
            f"cannot read {path}, line {start}",
            found=str(error),
            do="close each quote, and write a quote inside quotes twice",
        ) from error


def stripped(text: str) -> str:
    """Return a text without blanks and invisible characters around it."""
    return text.strip().strip(INVISIBLE).strip()


def is_blank(record: list[str]) -> bool:
    """Return whether a record has nothing but blanks."""
    return not any(map(stripped, record))


def listed_fields(fields: Iterable[str], *, maximum: int = 20) -> str:
    """Return fields as text: the first ones, of each at most 60 characters, and the number of the others."""
    return listed((each[:60] + "..." * (len(each) > 60) for each in fields), maximum)


def undecodable(text: str) -> bytes | None:
    """Return the bytes of a text that is not UTF-8, at most the first 60, or None."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")[:60]
    return None
