"""The rows of a table: what each says of its image."""

from __future__ import annotations

import array
import operator
import os
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from permafrost.errors import DatasetError
from permafrost.images.splitting.names import split_named
from permafrost.images.tables.columns import Columns
from permafrost.images.tables.paths import URL, existing, is_plain, usual
from permafrost.images.tables.text import is_blank, listed_fields, stripped, undecodable


class Value(NamedTuple):
    """What a row says of its image; empty where it says nothing."""

    label: str
    split: str
    group: str


class Rows:
    """The rows of a table.

    Args:
        path: the table.
        columns: where a row has what.

    Attributes:
        names: the path of each image.
        values: what the table says of each image.
        lines: the number of the line where each image's row starts.
        skipped: paths of rows that are not used, each with the reason.
        repeated: of each further row for an image, the image's index, the row's line and its value.
        unknown_splits: values of the column of the split that do not name a split, each with its first line.
    """

    def __init__(self, path: str, columns: Columns) -> None:
        self._path, self._folder, self._columns = path, os.path.dirname(path), columns
        # Few combinations of label, split and group differ, so each is understood once.
        self._known: dict[tuple[str, ...], Value] = {}
        self.names: list[str] = []
        self.values: list[Value] = []
        self.lines = array.array("q")
        self.skipped: list[tuple[str, str]] = []
        self.repeated: list[tuple[int, int, Value]] = []
        self.unknown_splits: dict[str, int] = {}

    def read(self, records: Iterable[tuple[int, list[str]]]) -> None:
        """Read rows, each with the number of the line where it starts; rows of nothing but blanks do not count.

        Raises:
            DatasetError: a row is incomplete, or not UTF-8.
        """
        columns, known, places = self._columns, self._known, dict[str, int]()
        width, header = len(columns.names), columns.names[columns.path]
        fields = operator.itemgetter(
            columns.label,
            columns.label if columns.split is None else columns.split,
            columns.label if columns.group is None else columns.group,
        )
        for line, row in records:
            record = row if len(row) == width else self._fitted(row, line)
            name = record[columns.path]
            if name == header and tuple(map(stripped, record)) == columns.names:
                self.skipped.append((name, "the header again"))
                continue
            key = fields(record)
            value = known.get(key) or self._understand(key, line)
            if not is_plain(name):
                name = self._name(name, line)
            if not name or not value.label:
                self._require_blank(record, "label" if name else "path", line)
            elif URL.match(name):
                self.skipped.append((name, "a URL, and only files are read"))
            elif (first := places.setdefault(self._place(name), len(self.names))) < len(self.names):
                self.repeated.append((first, line, value))
            else:
                self.names.append(name)
                self.values.append(value)
                self.lines.append(line)

    def _fitted(self, record: list[str], line: int) -> list[str]:
        """Return a record with as many fields as there are columns; missing ones are blank."""
        width = len(self._columns.names)
        if not is_blank(record[width:]):
            raise DatasetError(
                f"too many fields in {self._path}, line {line}",
                expected=width,
                found=f"{len(record)}: {listed_fields(record)}",
                do="put quotes around a field that has a comma in it",
            )
        return record[:width] + [""] * (width - len(record))

    def _understand(self, fields: tuple[str, ...], line: int) -> Value:
        """Return what the fields for label, split and group say."""
        label, split, group = (self._text(field, line) for field in fields)
        named = split_named(split) if self._columns.split is not None else ""
        if split and named is None:
            self.unknown_splits.setdefault(split, line)
        value = Value(label, named or "", group if self._columns.group is not None else "")
        self._known[fields] = value
        return value

    def _text(self, field: str, line: int) -> str:
        """Return what a field says, in one Unicode form."""
        data = undecodable(field)
        if data is not None or "\0" in field:
            found = data if data is not None else field.encode()[:60]
            raise DatasetError(f"{self._path}, line {line}, is not UTF-8", found=found, do="save it as CSV UTF-8")
        return unicodedata.normalize("NFC", stripped(field))

    def _name(self, path: str, line: int) -> str:
        """Return the path of the file that is meant."""
        if not stripped(path):
            return ""
        name = existing(self._folder, path)
        if name is None and (data := undecodable(path)) is not None:
            raise DatasetError(
                f"{self._path}, line {line}, is not UTF-8, and there is no file of this name",
                found=data,
                do="save it as CSV UTF-8",
            )
        return name or usual(path)

    def _place(self, name: str) -> str:
        """Return what is equal for all spellings of a path, such as `a.jpg` and `./a.jpg`."""
        if name[0] == "/":
            name = name.removeprefix(self._folder.rstrip("/") + "/")
        if "./" not in name and "//" not in name:
            return name
        parts = [part for part in name.split("/") if part not in ("", ".")]
        return "/" * (name[0] == "/") + "/".join(parts)

    def _require_blank(self, record: list[str], missing: str, line: int) -> None:
        if not is_blank(record):
            raise DatasetError(
                f"no {missing} in {self._path}, line {line}", do=f"fill in the {missing} or remove the line"
            )
