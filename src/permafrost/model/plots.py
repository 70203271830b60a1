"""The plots of a run: curves and the confusion matrix."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from permafrost.errors import one_line
from permafrost.process_state import ignored_warnings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_NAMES: Final = 100
"""The maximum number of class names along an axis: more cannot be read, and a thousand take a minute to lay out."""


def curves_png(history: Sequence[dict[str, float]], title: str) -> bytes:
    """Plot a run's history as PNG: loss and accuracy by epoch, or the score by setting.

    Args:
        history: one row per epoch or setting; the first key is the x axis. Rows may have a `standard_error`.
        title: the title.
    """
    from matplotlib.figure import Figure

    keys = list(history[0]) if history else ["epoch"]
    x_key, rest = keys[0], [key for key in keys[1:] if key != "standard_error"]
    groups = [[key for key in rest if "accuracy" in key], [key for key in rest if "accuracy" not in key]]
    panels = [group for group in groups if group] or [[]]
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    for panel, group in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        x = [row[x_key] for row in history]
        for key in group:
            y = [row[key] for row in history]
            panel.plot(x, y, marker="o", markersize=3, label=_curve_name(key))
            if "standard_error" in keys:
                spread = np.array([row["standard_error"] for row in history])
                panel.fill_between(x, np.array(y) - spread, np.array(y) + spread, alpha=0.2, label="one standard error")
        if x_key != "epoch" and history:
            panel.set_xscale("log")
        panel.set_xlabel(x_key.replace("_", " "))
        panel.set_ylabel("accuracy" if group and "accuracy" in group[0] else "loss")
        panel.grid(alpha=0.3)
        if group:
            panel.legend()
    if not history:
        figure.axes[0].text(0.5, 0.5, "no epochs or settings", ha="center")
    figure.suptitle(one_line(title), parse_math=False)
    return _png(figure)


def confusion_png(matrix: np.ndarray, class_names: Sequence[str], title: str) -> bytes:
    """Plot a confusion matrix as PNG, coloured by the fraction of each true class.

    Args:
        matrix: (classes, classes), true classes by predicted classes.
        class_names: the classes.
        title: the title.
    """
    from matplotlib.figure import Figure

    count = len(class_names)
    side = max(4.0, min(0.6 * count + 2.5, 20.0))
    figure = Figure(figsize=(side + 0.5, side), layout="constrained")
    axes = figure.subplots()
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="fraction of the true class", shrink=0.8)
    step = -(-count // MAX_NAMES)
    shown = [one_line(name) for name in class_names[::step]]
    names = [name if len(name) <= 20 else name[:19] + "…" for name in shown]
    # With `parse_math` a class called `$x$` would be a formula, and one called `$x_$` an error.
    axes.set_xticks(range(0, count, step), names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(0, count, step), names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= 25:
        for row, column in np.ndindex(count, count):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", color=colour)
    axes.set_title(one_line(title), parse_math=False)
    return _png(figure)


def _curve_name(key: str) -> str:
    if key.startswith("val_"):
        return "validation"
    return "training" if key in ("loss", "accuracy") else key.replace("_", " ")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # A character missing from the font is drawn as a box.
    with ignored_warnings(message="Glyph .* missing from font"):
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
