"""Lines of text that several commands print."""

from __future__ import annotations

from typing import Any

from permafrost.errors import listed, one_line
from permafrost.images.skipped import commonest


def remark_lines(result: dict[str, Any]) -> list[str]:
    """Return the notes and warnings of a result as lines."""
    return [f"note: {line}" for line in result["notes"]] + [f"warning: {line}" for line in result["warnings"]]


def skipped_lines(result: dict[str, Any], more: str = "") -> list[str]:
    """Return what was skipped as lines: the ten commonest reasons, each with one example.

    Args:
        result: holds `skipped_paths`.
        more: where all of it is listed.
    """
    skipped = [(each["path"], each["reason"]) for each in result["skipped_paths"]]
    if not skipped:
        return []
    reasons = commonest(skipped)
    lines = [f"  {count:,}: {reason}, such as {name}" for reason, count, name in reasons[:10]]
    rest = [f"  and {len(reasons) - 10:,} more reasons"] if len(reasons) > 10 else []
    return [f"skipped: {len(skipped):,}{more}", *lines, *rest]


def class_lines(splits: dict[str, Any], *, maximum: int | None = 20) -> list[str]:
    """Return a table of the images of each class in each split, with the names last: they may have any width.

    Args:
        splits: the result of `description.describe_splits`.
        maximum: maximum number of classes to list; None lists all.
    """
    names = list(splits["train"]["classes"])
    shown = names[:maximum]
    rows = [list(splits)] + [[f"{split['classes'][name]:,}" for split in splits.values()] for name in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  " + "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), name]).rstrip()
        for row, name in zip(rows, ["", *map(one_line, shown)], strict=True)
    ]
    more = [f"  and {len(names) - len(shown):,} more"] if len(shown) < len(names) else []
    return [f"classes: {len(names):,}", *lines, *more]


def split_lines(result: dict[str, Any]) -> list[str]:
    """Return the numbers of images and groups in each split, and how the split came about, as lines.

    Args:
        result: holds `splits` and `splitting`, as `extract --json` has them.
    """
    splits = result["splits"].items()
    total = sum(split["n"] for _, split in splits)
    each = ", ".join(f"{name} {split['n']:,}" for name, split in splits)
    lines = [f"images: {total:,} ({each})"]
    if result["splits"]["train"]["groups"] is not None:
        lines.append("groups: " + ", ".join(f"{name} {split['groups']:,}" for name, split in splits))
    return [*lines, *_splitting_lines(result["splitting"])]


def _splitting_lines(splitting: dict[str, Any] | None) -> list[str]:
    if splitting is None:
        return []
    given, decided = splitting["given"], splitting["decided"]
    how = f"by group ({splitting['split_by']})" if splitting["split_by"] else "by content"
    fractions = f"validation {splitting['validation_fraction']:g}, test {splitting['test_fraction']:g}"
    if not decided:
        return ["split: given by the dataset"]
    if not given:
        return [f"split: decided {how}: {fractions}"]
    return [f"split: given by the dataset for {given:,} images; decided {how} for {decided:,}: {fractions}"]


def metrics_line(split: str, metrics: dict[str, Any]) -> str:
    """Return a split's metrics as one line: `test: accuracy 0.9733 (0.960 to 0.985), balanced 0.9733, 600 images`."""
    if not metrics.get("n"):
        return f"{split}: no images"
    low, high = metrics.get("intervals", {}).get("accuracy", (None, None))
    interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
    return (
        f"{split}: accuracy {metrics['accuracy']:.4f}{interval}, "
        f"balanced {metrics['balanced_accuracy']:.4f}, {metrics['n']:,} images"
    )


def absent_class_lines(split: str, metrics: dict[str, Any]) -> list[str]:
    """Return a warning if a split lacks images of some classes, else no line."""
    absent = [label for label, values in metrics.get("classes", {}).items() if not values["n"]]
    if not absent:
        return []
    shown = listed(map(one_line, absent), 10)
    return [f"warning: {split} has no images of {shown}: their recall is n/a, and balanced accuracy omits them"]


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """Return the result of an exported model's parity check as lines."""
    found = f"parity: largest difference {parity['resized_max_difference']:.1e} on {parity['images']}"
    head, trunk = parity["head_max_difference"], parity["features_max_difference"]
    parts = f"of the head alone {head:.1e}, of features {trunk:.1e} of the largest"
    if parity["synthetic"]:
        return [f"{found} synthetic images, because the dataset's images are no longer at their paths; {parts}"]
    return [f"{found} images; at full size {parity['full_size_equal_labels']:.1%} of the labels are equal; {parts}"]


def duplicate_lines(duplicates: dict[str, Any], *, maximum: int | None = 10) -> list[str]:
    """Return a report on duplicate images as lines.

    Args:
        duplicates: the result of `duplicates.describe_duplicates`.
        maximum: maximum number of groups to list; None lists all.
    """
    if not duplicates["groups"]:
        return []
    lines = [
        f"duplicates: {duplicates['across_splits']:,} images are in more than one split, and count in the first only; "
        f"{duplicates['across_labels']:,} have more than one label"
    ]
    for group in duplicates["groups"][:maximum]:
        lines.append("  " + " = ".join(f"{each['path']} ({each['split']}, {each['label']})" for each in group))
    if maximum is not None and len(duplicates["groups"]) > maximum:
        lines.append(f"  and {len(duplicates['groups']) - maximum:,} more; `permafrost features show` lists them")
    return lines


def duration(seconds: float) -> str:
    """Return a duration in words: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
