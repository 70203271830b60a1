"""Names of splits, as people spell them for folders, in tables and in arrays."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

_WORDS: Final = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "validation": "validation",
    "validate": "validation",
    "validating": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "devel": "validation",
    "development": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "publictest": "validation",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "holdout": "test",
    "heldout": "test",
    "privatetest": "test",
}
"""Words for splits, with the split that each means."""

# fmt: off
_FILLERS: Final = frozenset({
    "set", "sets", "subset", "data", "dataset", "datasets", "split", "splits", "partition", "folder", "folders",
    "dir", "directory", "file", "files", "image", "images", "img", "imgs", "photo", "photos", "pic", "pics",
    "picture", "pictures", "sample", "samples", "example", "examples", "jpg", "jpeg", "jpegs", "png", "seg", "cls",
    "for", "of", "the",
})
# fmt: on
"""Words that say nothing about which split a name means."""

_OTHER_FILES: Final = frozenset(
    ["mask", "masks", "label", "labels", "annotation", "annotations", "gt", "truth", "boxes", "bbox", "depth"]
)
"""Words for files that come with the images of a split: `train_masks` is not a split."""

_SPLIT_WORDS: Final = _WORDS | {word + filler: split for word, split in _WORDS.items() for filler in _FILLERS}
"""The words for splits, also joined with a filler, as in `trainset`."""

_HINT: Final = re.compile("tr|val|dev|test|tst|h[eo]ld", re.IGNORECASE)
"""What every word for a split has in it; most names have none of it."""

_BREAKS: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_COMPOUNDS: Final = re.compile(r"\b(hold|held|public|private) (out|test)\b")


@functools.lru_cache(maxsize=1024)
def split_named(name: str) -> str | None:
    """Return the split that a name means: `train`, `validation` or `test`; None for another name.

    Case, separators, numbers and words such as "set" or "images" do not matter: `Train`, `trainset`, `test_images` and
    `val2017` are splits, "test strip" is not.
    """
    split, rest = _parts(name)
    return None if rest else split


def says_nothing(name: str) -> bool:
    """Return whether a name means neither a class nor a split, as `images`, `data_1` or `set` do."""
    words = _words(name)
    return not _FILLERS.isdisjoint(words) and all(word in _FILLERS or word.isdigit() for word in words)


def split_folders(names: Iterable[str]) -> dict[str, str]:
    """Return the names of sibling folders that mean splits, with the split that each means.

    Words that different splits have in common do not matter: `alphabet_train` beside `alphabet_test` is a split. Nor do
    other words if each name has a word for a split: `train_v2` beside `val` is one.
    """
    names = list(names)
    named, groups = _grouped(names)
    if len(groups) == 1:
        named.update(*groups.values())
    worded = {name: split for name in names if (split := _parts(name)[0])}
    if named and not groups and len(worded) == len(names) and len(set(worded.values())) > 1:
        return worded
    return named


def combined_names(names: Iterable[str]) -> list[str]:
    """Return the names of sibling folders that combine splits with something else: `cats_train`, `dogs_test`, ..."""
    _, groups = _grouped(names)
    return [name for group in groups.values() for name in group] if len(groups) > 1 else []


def _grouped(names: Iterable[str]) -> tuple[dict[str, str], dict[tuple[str, ...], dict[str, str]]]:
    """Return the splits of names that mean one by themselves; and those that have other words in common, by these."""
    named: dict[str, str] = {}
    groups: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names:
        split, rest = _parts(name)
        if split is not None and rest:
            groups[rest][name] = split
        elif split is not None:
            named[name] = split
    return named, {rest: group for rest, group in groups.items() if len(set(group.values())) > 1}


def _parts(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the split that is named by exactly one word of a name, if any, and the words that are left."""
    if not _HINT.search(name):
        return None, ()
    words = _words(name)
    splits = [_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS]
    rest = tuple(word for word in words if word not in _SPLIT_WORDS and word not in _FILLERS)
    if not _OTHER_FILES.isdisjoint(rest):
        return None, rest
    if all(word.isdigit() for word in rest):
        rest = ()
    return (splits[0], rest) if len(splits) == 1 else (None, rest)


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case; words are joined by separators, by capitals, or by numbers."""
    spaced = _BREAKS.sub(" ", unicodedata.normalize("NFC", name))
    words = " ".join(re.split(r"[\W_]+", spaced.casefold())).strip()
    return _COMPOUNDS.sub(r"\1\2", words).split()
