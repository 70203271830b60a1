"""Class names that are more likely something else: years, cameras, people, ..."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

_NUMBERED: Final = {
    "times": "day week month night session visit hour run take time",
    "cameras": "cam camera sensor device phone lens view channel",
    "people": "patient subject subj sub person participant user volunteer actor speaker author writer case",
    "folds": "fold cv split",
    "batches or parts": "batch part chunk shard folder dir set subset archive group collection images img",
}
"""Kinds of numbered folders that are not classes, with the words before the number."""

_MONTHS: Final = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_PATTERNS: Final = {
    "splits": ".*(train|valid|test|holdout|treino|teste|entrena|prueba|entrainement|apprentissage).*",
    "years": r"(19|20)\d\d",
    "dates": rf"(19|20)\d\d([-_. ]?\d\d){{1,2}}|\d\d?[-_.]\d\d?[-_.](\d\d){{1,2}}|({_MONTHS})[a-z]*([-_. ]?\d+)?",
    "kinds of files": "(jpeg)?(image|img|photo|picture|mask|label|annotation|ground[-_ ]?truth|thumbnail)s?|segment.*",
    **{kind: rf"(.*[-_. ])?({'|'.join(words.split())})s?([-_. ]?\d+|[-_. ][a-z])" for kind, words in _NUMBERED.items()},
}
"""Kinds of folders that are not classes, with a regular expression for their names in lower case."""


def resembled(names: Collection[str]) -> Iterator[str]:
    """Yield each kind of folder other than a class, such as years, that all of the names look like."""
    for kind, pattern in _PATTERNS.items():
        if len(names) > 1 and all(re.fullmatch(pattern, name.lower(), re.DOTALL) for name in names):
            yield kind
