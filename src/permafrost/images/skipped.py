"""What was skipped, counted by reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

WITHOUT_IMAGES: Final = "a class folder without images"


def commonest(skipped: Iterable[tuple[str, str]]) -> list[tuple[str, int, str]]:
    """Count what was skipped by reason.

    Args:
        skipped: names, each with the reason why it was skipped.

    Returns:
        The reasons, the commonest first, each with the number of names and the first of them.
    """
    found: dict[str, list[str]] = {}
    for name, reason in skipped:
        found.setdefault(reason, []).append(name)
    counts = [(reason, len(names), names[0]) for reason, names in found.items()]
    return sorted(counts, key=lambda each: -each[1])


def what_was_found(skipped: Iterable[tuple[str, str]]) -> str:
    """Say in an error what there was: `18 other entries, 16 of them: not an image (.txt), such as a/1.txt`."""
    skipped = list(skipped)
    skipped = [(name, reason) for name, reason in skipped if reason != WITHOUT_IMAGES] or skipped
    if not skipped:
        return "none"
    reason, count, example = commonest(skipped)[0]
    if len(skipped) == 1:
        return f"1 other entry: {reason}, {example}"
    which = "all" if count == len(skipped) else f"{count:,}"
    return f"{len(skipped):,} other entries, {which} of them: {reason}, such as {example}"
