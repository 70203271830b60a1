"""Datasets in a table: a CSV with the columns `path` and `label`, and optionally `split` and `group`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Final, TextIO

from permafrost.errors import DatasetError
from permafrost.images.entries import Entries
from permafrost.images.folders.class_levels import resembled
from permafrost.images.options import RECOGNISED, ReadingOptions
from permafrost.images.skipped import what_was_found
from permafrost.images.splits import SPLITS
from permafrost.images.tables.columns import Columns, find_columns
from permafrost.images.tables.rows import Rows, Value
from permafrost.images.tables.text import contains, is_blank, listed_fields, open_text, read_records

DELIMITERS: Final = ",;\t|"
"""What may separate the fields of a table."""

_DECLARATION: Final = re.compile(r'"?sep=(?P<delimiter>[^"\r\n])"?[\r\n]*', re.IGNORECASE)
"""A first line that tells a spreadsheet what separates the fields."""

_WHOLE: Final = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
"""A whole number, perhaps with a decimal point."""

_NO_LABEL: Final = frozenset(("nan", "<na>", "#n/a", "null"))
"""What programs write for a value that is missing, in lower case."""


def read_table(path: str, options: ReadingOptions = RECOGNISED) -> Entries:
    """Read a dataset from a table.

    Each row that is not blank is an image, or skipped with a reason.

    Raises:
        DatasetError: the file cannot be read, a column is missing, or a row is incomplete or contradicts another.
        OptionError: `options.split_by` is a word that no column has for a name.
    """
    with open_text(path) as file:
        columns, records = _read_header(file, path, options.split_by)
        rows = Rows(path, columns)
        rows.read(records)
    notes = columns.notes + _settle_splits(path, columns, rows) + _settle_labels(rows)
    _skip_repeated(path, rows)
    if not rows.names:
        raise DatasetError(f"no images in {path}", expected="a line for each image", found=what_was_found(rows.skipped))
    return Entries(
        names=rows.names,
        labels=[value.label for value in rows.values],
        splits=[value.split or None for value in rows.values],
        skipped=rows.skipped,
        groups=None if columns.group is None else [value.group or None for value in rows.values],
        grouped_by="" if columns.group is None else f"column {columns.names[columns.group]}",
        notes=notes,
        warnings=columns.warnings + _doubtful_labels(rows),
    )


def _read_header(file: TextIO, path: str, split_by: str | None) -> tuple[Columns, Iterator[tuple[int, list[str]]]]:
    """Return the columns of a table, and its other records; the delimiter is the one with which columns are found."""
    declared = _DECLARATION.fullmatch(file.readline(16))

    def records(delimiter: str, *, blanks: bool) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
        file.seek(0)
        if declared:
            file.readline()
        found = read_records(file, path, delimiter=delimiter, blanks=blanks, line=2 if declared else 1)
        return next((record for _, record in found if not is_blank(record)), []), found

    problems: list[tuple[int, DatasetError]] = []
    for delimiter in declared["delimiter"] if declared else DELIMITERS:
        header: list[str] = []
        try:
            header, _ = records(delimiter, blanks=True)
            columns = find_columns(path, header, split_by)
        except DatasetError as error:
            problems.append((len(header), error))
            continue
        file.seek(0)
        return columns, records(delimiter, blanks=contains(file, f'{delimiter} "'))[1]
    raise max(problems, key=lambda each: each[0])[1]


def _settle_splits(path: str, columns: Columns, rows: Rows) -> list[str]:
    """Check the values of the split's column; return a note if they show that it is another column."""
    if not rows.unknown_splits:
        return []
    value, line = next(iter(rows.unknown_splits.items()))
    if columns.split_certain or any(value.split for value in rows.values):
        raise DatasetError(f"unknown split in {path}, line {line}", expected=", ".join(SPLITS), found=value)
    assert columns.split is not None, "values are of a column"
    return [f"the column {columns.names[columns.split]} does not give splits: {value}"]


def _settle_labels(rows: Rows) -> list[str]:
    """Read labels such as 0.0 and 1.0 as 0 and 1 if all are whole numbers; return a note on it."""
    repeated = (value for _, _, value in rows.repeated)
    labels = dict.fromkeys(value.label for value in itertools.chain(rows.values, repeated))
    whole = {label: found[1] for label in labels if (found := _WHOLE.fullmatch(label))}
    changed = [label for label in whole if whole[label] != label]
    if not changed or len(whole) < len(labels):
        return []

    def settled(value: Value) -> Value:
        return value._replace(label=whole[value.label])

    known = {value: settled(value) for value in set(rows.values)}
    rows.values = [known[value] for value in rows.values]
    rows.repeated = [(first, line, settled(value)) for first, line, value in rows.repeated]
    return [f"labels are whole numbers: {changed[0]} is read as {whole[changed[0]]}"]


def _doubtful_labels(rows: Rows) -> list[str]:
    """Return warnings on labels that may not be classes: those that mean a missing value, or all if alike."""
    labels = sorted({value.label for value in rows.values})
    missing = [label for label in labels if label.casefold() in _NO_LABEL]
    return [f"{label} is a class: leave out the rows of images without a label" for label in missing] + [
        f"the labels look like {kind}: {listed_fields(labels, maximum=3)}" for kind in resembled(labels)
    ]


def _skip_repeated(path: str, rows: Rows) -> None:
    """Skip rows that repeat what another says of the same image.

    Raises:
        DatasetError: two rows contradict each other.
    """
    for first, line, value in rows.repeated:
        name, earlier = rows.names[first], rows.lines[first]
        for what, before, now in zip(Value._fields, rows.values[first], value, strict=True):
            if before != now:
                raise DatasetError(
                    f"two rows of {path} give {name} another {what}",
                    expected=f"one {what} per image",
                    found=f"{before or 'none'} in line {earlier}, {now or 'none'} in line {line}",
                    do="remove one of them" + ", or name each combination as a class" * (what == "label"),
                )
        rows.skipped.append((name, "listed more than once"))
