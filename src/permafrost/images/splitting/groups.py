"""Groups of images, such as those of a patient, a video or a burst, which share a split: `--split-by`."""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

from permafrost.errors import OptionError
from permafrost.images.entries import Entries

FOLDER_LEVEL: Final = re.compile(r"folder-(\d+)")
"""How `split_by` names a level of folders: `folder-1` is an image's own folder."""

Groups = list[str | None]


def find_groups(entries: Entries, split_by: str | None) -> Entries:
    """Return the entries with the groups that `split_by` finds, and a note that counts them.

    Groups that the reader has found, in a column or an array, are used. Otherwise `folder-1` is the name of an image's
    own folder, `folder-2` that of the folder above, and so on; anything else is a regular expression that is searched
    for in the path, with `/` between folders: its first group, or what it matches, is the image's group.

    Raises:
        OptionError: no image has a group, each class would be in one split, or it is not a regular expression.
    """
    if not entries.names:
        return entries
    if entries.groups is None:
        if split_by is None:
            return entries
        groups, grouped_by = _from_names(entries, split_by)
        entries = dataclasses.replace(entries, groups=groups, grouped_by=grouped_by)
    if _groups_are_classes(entries):
        if split_by is not None:
            raise OptionError(
                f"--split-by {split_by} would put each class into one split",
                expected="several groups in a class",
                found="one in each",
            )
        line = f"{entries.grouped_by} is not used to split: all images of a class are of one group"
        return dataclasses.replace(entries, groups=None, grouped_by="", warnings=[*entries.warnings, line])
    return dataclasses.replace(entries, notes=[*entries.notes, _count_line(entries)])


def _from_names(entries: Entries, split_by: str) -> tuple[Groups, str]:
    """Return the group of each image, and what decides it."""
    if number := FOLDER_LEVEL.fullmatch(split_by):
        return _folders(entries.names, int(number[1])), split_by
    find = _pattern(split_by)
    groups = [find(name) for name in entries.names]
    if not any(groups):
        raise OptionError(
            "--split-by finds no group in the paths of the images",
            expected="a regular expression that matches some, such as ^[^/]+/([^_]+)",
            found=f"{split_by}, and paths such as {entries.names[0]}",
        )
    return groups, f"pattern {split_by}"


def _folders(names: Sequence[str], number: int) -> Groups:
    """Return the name of the folder that is `number` levels above each image; None for images that are not so deep."""
    folders = [[part for part in _portable(name).split("/")[:-1] if part not in ("", ".", "..")] for name in names]
    deepest = max(map(len, folders))
    if not 1 <= number <= deepest:
        levels = [f"folder-{level}" for level in range(1, deepest + 1)]
        raise OptionError(
            "no such level of folders for --split-by",
            expected=" or ".join(dict.fromkeys([levels[0], levels[-1]])) if levels else "paths with folders",
            found=f"folder-{number}, and paths such as {names[0]}",
        )
    return [parents[-number] if len(parents) >= number else None for parents in folders]


def _pattern(split_by: str) -> Callable[[str], str | None]:
    """Return a function that finds the group in a path."""
    try:
        pattern = re.compile(unicodedata.normalize("NFC", split_by))
    except re.error as error:
        raise OptionError(
            "--split-by is not a regular expression",
            expected="a column of the CSV, folder-1, folder-2, ..., or a regular expression",
            found=f"{split_by}: {error}",
        ) from error

    def find(name: str) -> str | None:
        match = pattern.search(_portable(name))
        return (match[1] if pattern.groups and match[1] else match[0]) or None if match else None

    return find


def _portable(name: str) -> str:
    """Return a path with `/` between folders, in the Unicode form that patterns are compiled in."""
    return unicodedata.normalize("NFC", name.replace(os.sep, "/"))


def _groups_are_classes(entries: Entries) -> bool:
    """Return whether all images of each class are of one group, and some class has several images."""
    assert entries.groups is not None
    pairs = set(zip(entries.labels, entries.groups, strict=True))
    return len(pairs) == len(set(entries.labels)) < len(entries.names) and None not in entries.groups


def _count_line(entries: Entries) -> str:
    assert entries.groups is not None
    grouped = sum(group is not None for group in entries.groups)
    count = len(set(entries.groups) - {None})
    line = f"{count:,} group{'' if count == 1 else 's'} by {entries.grouped_by}"
    if grouped < len(entries.groups):
        line += f" for {grouped:,} of {len(entries.groups):,} images; the others stand alone"
    return line
