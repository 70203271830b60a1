"""The columns of a table, recognised by their names."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Final

from permafrost.errors import DatasetError, OptionError
from permafrost.images.decoding import EXTENSIONS
from permafrost.images.splits import SPLITS
from permafrost.images.splitting.groups import FOLDER_LEVEL
from permafrost.images.splitting.names import split_named
from permafrost.images.tables.text import listed_fields, stripped, undecodable

NAMES: Final = {
    "path": (
        "path",
        "filepath filename file fname imagepath imagefile imagefilepath imagefilename imagename image imgpath imgfile "
        "imgname img picture photo relpath relativepath fullpath paths filepaths filenames files imagepaths images",
        "id imageid imgid fileid photoid name",
        "url imageurl imgurl link",
    ),
    "label": (
        "label",
        "class classname category categoryname labelname classlabel labels classes target targetclass groundtruth",
        "species breed variety tag y classid classindex classidx categoryid labelid labelindex labelidx targetid",
    ),
    "split": ("split", "splits set subset partition usage splitset datasplit", "dataset"),
    "group": ("group groups",),
}
"""Names of columns, as `_plain` returns them: those of a line mean the same, and an earlier line is preferred."""

_FLAG: Final = re.compile(r"^is(?=[ _A-Z-])")
"""How the name of a column of yes and no starts, such as `is_valid`."""

_PATTERN: Final = re.compile(rf"{FOLDER_LEVEL.pattern}|.*[\\^$.|?*+()\[\]{{}}]")
"""What `split_by` can be apart from a column: a level of folders or a regular expression."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a table has what.

    Attributes:
        names: the names of all columns, stripped.
        path, label: indices of columns.
        split, group: likewise, or None.
        split_certain: whether the name of the split's column means nothing else.
    """

    names: tuple[str, ...]
    path: int
    label: int
    split: int | None
    group: int | None
    split_certain: bool

    @property
    def warnings(self) -> list[str]:
        """What may give splits and is not read."""
        if self.split is not None:
            return []
        flags = [name for name in self.names if split_named(_FLAG.sub("", name)) and name]
        return [
            f"the column {name} is not read; a column split with {', '.join(SPLITS)} gives splits" for name in flags
        ]

    @property
    def notes(self) -> list[str]:
        """What was understood, where the names are not the usual ones; of groups there is a note of their own."""
        taken = [(what, getattr(self, what)) for what in ("path", "label", "split")]
        other = [
            f"the {what} from the column {self.names[at]}"
            for what, at in taken
            if at is not None and self.names[at].casefold() != what
        ]
        return [f"read {', '.join(other)}"] if other else []


def find_columns(path: str, header: Sequence[str], split_by: str | None) -> Columns:
    """Find the columns of a table by the names in its header.

    Args:
        path: the table, for errors.
        header: the fields of its first record.
        split_by: the option of this name.

    Raises:
        DatasetError: a column is missing, or two may be meant.
    """
    names = tuple(stripped(name) for name in header)
    for name in names:
        if (data := undecodable(name)) is not None:
            raise DatasetError(f"a column of {path} is not UTF-8", found=data, do="save it as CSV UTF-8")
    found = {what: _find(path, names, what) for what in NAMES}
    at_path, at_label = found["path"], found["label"]
    if at_path is None or at_label is None:
        raise _missing(path, names, "path" if at_path is None else "label")
    at_split = found["split"]
    certain = at_split is not None and _plain(names[at_split]) not in NAMES["split"][-1].split()
    group = found["group"] if split_by is None else _asked(path, names, split_by)
    if group is not None and group == at_label:
        raise OptionError(f"--split-by {split_by} would put each class into one split", do="give another column")
    return Columns(names=names, path=at_path, label=at_label, split=at_split, group=group, split_certain=certain)


def _plain(name: str) -> str:
    """Return the letters and digits of a name in lower case: `File name`, `file_name` and `FileName` are one."""
    return "".join(character for character in name.casefold() if character.isalnum())


def _find(path: str, names: Sequence[str], what: str) -> int | None:
    """Return the index of the column that `what` is in, or None."""
    plain = [_plain(name) for name in names]
    for alternatives in NAMES[what]:
        found = [at for at, name in enumerate(plain) if name in alternatives.split()]
        if len(found) > 1:
            raise _several(path, names, found, what)
        if found:
            return found[0]
    return None


def _asked(path: str, names: Sequence[str], split_by: str) -> int | None:
    """Return the index of the column that `split_by` names, or None if it is something else."""
    for form in (str.casefold, _plain):
        asked = form(split_by.strip())
        found = [at for at, name in enumerate(names) if asked and form(name) == asked]
        if len(found) > 1:
            raise _several(path, names, found, split_by)
        if found and FOLDER_LEVEL.fullmatch(split_by):
            raise OptionError(
                f"--split-by {split_by} is a column of {path} and a level of folders",
                do="give another name to the column, or a regular expression for the folder, such as ([^/]+)/[^/]+$",
            )
        if found:
            return found[0]
    if _PATTERN.match(split_by):
        return None
    raise OptionError(
        f"no column for --split-by in {path}",
        expected=f"one of {listed_fields(names)}, folder-1, folder-2, ..., or a regular expression",
        found=split_by,
    )


def _several(path: str, names: Sequence[str], found: Sequence[int], what: str) -> DatasetError:
    return DatasetError(
        f"several columns of {path} may be the {what}",
        found=", ".join(names[at] for at in found),
        do=f"call the right one {what}, or remove the others",
    )


def _missing(path: str, names: Sequence[str], what: str) -> DatasetError:
    if not any(names):
        return DatasetError(f"{path} is empty", expected="a first line path,label, and a line for each image")
    if any(os.path.splitext(name)[1].lower() in EXTENSIONS for name in names):
        return DatasetError(
            f"no header in {path}", found=listed_fields(names), do="put a first line path,label before it"
        )
    return DatasetError(
        f"no column for the {what} in {path}",
        expected="path, label and optionally split and group" + ", separated by commas" * (len(names) == 1),
        found=listed_fields(names),
        do=f"call the column of the {what} {what}",
    )
