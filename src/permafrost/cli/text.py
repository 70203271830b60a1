"""Lines of text that several commands print."""

from __future__ import annotations

from typing import Any

from permafrost.errors import one_line


def remark_lines(result: dict[str, Any]) -> list[str]:
    """Return the notes and warnings of a result as lines."""
    return [f"note: {line}" for line in result["notes"]] + [f"warning: {line}" for line in result["warnings"]]


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
    shown = ", ".join(map(one_line, absent[:10])) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
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
        f"duplicates: {duplicates['across_splits']:,} images are in more than one split, which inflates the score; "
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
