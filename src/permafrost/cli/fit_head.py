"""`fit-head`: fit a head to a feature set and write a run with one Keras model."""

from __future__ import annotations

from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.options import progress_option, record_options
from permafrost.cli.text import absent_class_lines, duration, metrics_line, parity_lines, remark_lines
from permafrost.heads.options import CLASSICAL_HEADS, KERAS_HEADS, FitOptions, HeadOptions
from permafrost.images.splits import SPLITS
from permafrost.training.options import HEAD_TRAINING


@command("fit-head", COMMANDS["fit-head"])
@click.argument("features", metavar="SET.h5 [SET.h5 ...]", nargs=-1, required=True, type=click.Path())
@click.option(
    "--head",
    default="dense",
    show_default=True,
    help=f"Trained by Keras: {', '.join(KERAS_HEADS)}. Fitted by scikit-learn or in closed form: "
    f"{', '.join(CLASSICAL_HEADS)}. Or auto: the best of the latter.",
)
@record_options(FitOptions)
@record_options(HeadOptions)
@record_options(HEAD_TRAINING)
@click.option("--out", type=click.Path(), metavar="RUN/", help="The run's folder.  [default: runs/<SET>-<head>]")
@progress_option
def fit_head(*, features: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Fit a head to cached features and export one Keras model.

    Several sets of the same images, with different cuts, poolings or bases, are compared. The model takes images of any
    size, 0 to 255, and returns probabilities; it opens with plain Keras.
    """
    from permafrost.heads.fit import fit_head as fit

    run = fit(features, **options)
    show(run.describe(), run_lines(run), as_json=as_json)


def run_lines(run: Any) -> list[str]:
    """Return the results of a run as lines of text."""
    return [
        *remark_lines(run.about),
        *([f"fitted: {run.about['details']['fitted']}"] if "fitted" in run.about["details"] else []),
        *leaderboard_lines(run.about.get("leaderboard", [])),
        *(
            f"{row['shots']} per class: accuracy {row['accuracy']:.4f} ± {row['accuracy_spread']:.4f}, "
            f"balanced {row['balanced_accuracy']:.4f} ± {row['balanced_accuracy_spread']:.4f}, {row['draws']} draws"
            for row in run.about.get("shots", [])
        ),
        *(metrics_line(split, run.metrics[split]) for split in SPLITS),
        *(line for split in SPLITS for line in absent_class_lines(split, run.metrics[split])),
        *calibration_lines(run.about.get("calibration"), run.about.get("threshold")),
        *parity_lines(run.about["parity"]),
        f"time: {duration(run.about['seconds']['total'])}",
        f"run: {run.folder}",
        f"model: {run.model_path}",
    ]


def leaderboard_lines(entries: list[dict[str, Any]]) -> list[str]:
    """Return the leaderboard as the lines of a table, the best head first."""
    if not entries:
        return []
    rows = [("", "head", "set", "scaling", "setting", "log loss", "accuracy", "balanced", "seconds")]
    rows += [
        (
            f"{place}",
            entry["head"],
            entry["features"],
            entry["scaling"],
            f"{entry['setting']} {entry['value']:.3g}",
            f"{entry['log_loss']:.4f} ± {entry['standard_error']:.4f}",
            f"{entry['accuracy']:.4f}",
            f"{entry['balanced_accuracy']:.4f}",
            f"{entry['seconds']:.2f}",
        )
        for place, entry in enumerate(entries, 1)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ["compared on held-out folds of the training images:", *table]


def calibration_lines(calibration: dict[str, Any] | None, threshold: dict[str, Any] | None) -> list[str]:
    """Return the temperature and the threshold that were chosen on held-out images, as lines of text."""
    lines = []
    if calibration and not calibration["identifiable"]:
        lines.append(
            f"calibration: all {calibration['n']:,} images of {calibration['split']} are classified "
            "correctly, so there is no best temperature, and none is applied"
        )
    elif calibration:
        applied = "applied" if calibration["applied"] else "not applied (--calibrate temperature applies it)"
        lines.append(
            f"calibration: temperature {calibration['temperature']:.3g} changes the error from "
            f"{calibration['error_before']:.4f} to {calibration['error_after']:.4f} "
            f"on {calibration['split']}; {applied}"
        )
    if threshold:
        lines.append(
            f"threshold: predicting {threshold['class']} from probability {threshold['threshold']:.3f} has the best "
            f"balanced accuracy on {threshold['split']}: {threshold['balanced_accuracy']:.4f}"
        )
    return lines
