"""Datasets in a CSV with the columns `path,label[,split]`."""

from __future__ import annotations

import csv

from permafrost.errors import DatasetError
from permafrost.images.entries import Entries, read_errors
from permafrost.images.split_names import split_named
from permafrost.images.splits import SPLITS


def read_table(path: str) -> Entries:
    """Read a dataset from a CSV with the columns `path` and `label`, and optionally `split`, in any order.

    Raises:
        DatasetError: the file cannot be read, a column is missing, or a row is incomplete.
    """
    with read_errors(path), open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        try:
            columns = reader.fieldnames or ()
            if not {"path", "label"} <= set(columns):
                raise DatasetError(
                    f"columns missing in {path}",
                    expected="path, label and optionally split",
                    found=",".join(columns) or "an empty file",
                )
            rows = [_row(path, reader.line_num, row) for row in reader]
        except csv.Error as error:
            line = reader.reader.line_num  # `DictReader.line_num` is the last line without an error.
            raise DatasetError(f"cannot read {path}, line {line}", found=str(error)) from error
    names, labels, splits = zip(*rows, strict=True) if rows else ((), (), ())
    return Entries(names=names, labels=labels, splits=splits)


def _row(path: str, line: int, row: dict[str, str | None]) -> tuple[str, str, str | None]:
    """Return the name, label and split of a row."""
    name, label, given = (row.get("path") or ""), (row.get("label") or "").strip(), (row.get("split") or "").strip()
    if not name or not label:
        missing = "path" if not name else "label"
        raise DatasetError(f"no {missing} in {path}, line {line}", do=f"fill in the {missing} or remove the line")
    split = split_named(given)
    if given and split is None:
        raise DatasetError(f"unknown split in {path}, line {line}", expected=", ".join(SPLITS), found=given)
    return name, label, split
