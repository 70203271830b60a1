"""Names of arrays in an npz file: which hold the images, labels and groups of which split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from permafrost.errors import DatasetError
from permafrost.images.splits import SPLITS
from permafrost.images.splitting.names import split_named

IMAGES: Final = ("x", "images", "image", "imgs", "img", "data", "pixels", "inputs")
LABELS: Final = ("y", "labels", "label", "targets", "target")
GROUPS: Final = ("groups", "group")
CLASS_NAMES: Final = ("class_names", "classes", "label_names", "target_names")

_SHORT: Final = {"tr": "train", "te": "test", "va": "validation"}
_SEPARATORS: Final = "_-. "


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitArrays:
    """The names of the arrays of one split.

    Attributes:
        split: the split, or None if the names say none.
        images: the name of the images.
        labels: the name of their labels.
        groups: the name of their groups, or None.
    """

    split: str | None
    images: str
    labels: str
    groups: str | None


def splits_of(path: str, shapes: Mapping[str, tuple[int, ...]], *, groups: Sequence[str] = GROUPS) -> list[SplitArrays]:
    """Return the arrays of each split of an npz file, in the order of the file.

    Names are `X` and `y`, `images` and `labels`, `data` and `target` or the like, in any case, alone or with the name
    of a split before or after them: `x_train`, `train_images`, `y_test`.

    Args:
        path: the file, for errors.
        shapes: the name and shape of each array.
        groups: names for groups.

    Raises:
        DatasetError: there are no images, images have no labels, or more than one array may hold them.
    """
    labels, grouped = _by_split(shapes, LABELS), _by_split(shapes, groups)
    found = []
    for split, names in _by_split(shapes, IMAGES).items():
        if split is not None and split not in SPLITS:
            if split in labels:
                raise DatasetError(f"unknown split in {path}", expected="X_train, X_validation, X_test", found=names[0])
            continue
        several = [name for name in names if len(shapes[name]) in (3, 4)]
        images = _only(path, "images", several if several and len(names) > 1 else names)
        if split not in labels:
            wanted = f"y_{split}" if split else "y"
            raise DatasetError(
                f"labels missing in {path}", expected=f"{wanted} beside {images}", found=", ".join(shapes)
            )
        found.append(
            SplitArrays(
                split=split,
                images=images,
                labels=_only(path, "labels", labels[split]),
                groups=_only(path, "groups", grouped[split]) if split in grouped else None,
            )
        )
    if not found:
        raise DatasetError(
            f"no images in {path}",
            expected="X_train and y_train, or X and y",
            found=", ".join(shapes) or "none",
            do="name them with numpy.savez(file, X=..., y=...)",
        )
    return found


def _only(path: str, what: str, names: Sequence[str]) -> str:
    if len(names) > 1:
        raise DatasetError(
            f"more than one array in {path} may hold the {what}", expected="one", found=" and ".join(names)
        )
    return names[0]


def _by_split(names: Mapping[str, object], words: Sequence[str]) -> dict[str | None, list[str]]:
    """Return the arrays whose names are one of `words` with or without a split, by split.

    What is not a split stays as it is, in lower case: `query` for `X_query`.
    """
    found: dict[str | None, list[str]] = {}
    for name in names:
        rests = [rest for word in words if (rest := _rest(name, word)) is not None]
        if rests:
            found.setdefault(_split(min(rests, key=len).lower()), []).append(name)
    return found


def _split(rest: str) -> str | None:
    return (_SHORT.get(rest) or split_named(rest) or rest) if rest else None


def _rest(name: str, word: str) -> str | None:
    """Return what a name says besides `word`, which is at its beginning or end; None if it is not."""
    lower = name.lower()
    if lower == word:
        return ""
    for rest, edge in (
        (name[len(word) :], lower.startswith(word)),
        (name[: -len(word)], lower.endswith(word)),
    ):
        bare = rest.strip(_SEPARATORS)
        if edge and (bare != rest or split_named(bare)):
            return bare
    return None
