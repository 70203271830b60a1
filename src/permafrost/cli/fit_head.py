"""`fit-head`: a feature set in, a run with one Keras model out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.options import progress_option, record_options
from permafrost.cli.text import absent_class_lines, duration, metrics_line, parity_lines
from permafrost.errors import OptionError
from permafrost.heads.options import PER_LAYER, HeadOptions
from permafrost.images.splits import SPLITS
from permafrost.training.options import HEAD_TRAINING

_LAYERS: Final = HeadOptions(training=HEAD_TRAINING)


def head_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `heads.HeadOptions`, with its defaults."""
    options: list[tuple[str, Any, str]] = [
        ("hidden", str, "dense, conv, mlp: units of each hidden layer: 256, 512,128, or 0 for none."),
        ("dropout", float, "dense, conv: fraction of units dropped in training."),
        ("batch_norm", bool, "dense, conv: normalise hidden layers and convolutions over each batch."),
        ("l2", float, "linear, dense, conv: penalty of squared weights."),
        ("filters", str, "conv: filters of each convolution: 32,64."),
        ("kernel_size", int, "conv: size of the convolutions."),
        ("pool_size", int, "conv: size of the pooling after each."),
        ("filter_dropout", str, "conv: fraction dropped after each pooling: 0.25, or 0.25,0."),
        (
            "regularization",
            float,
            "logistic, svm: C, the inverse strength; ridge, mlp: alpha; lda: shrinkage; nb: smoothing.  "
            "[default: chosen by cross-validation]",
        ),
        ("neighbours", int, "knn: how many.  [default: chosen by cross-validation]"),
        (
            "scaling",
            str,
            "logistic and those after it: standard, each feature to variance 1; centred, all by one number.",
        ),
        ("pca", float, "Reduce features first to so many principal components, or to a fraction of the variance."),
        ("calibrate", str, "none, or temperature: so that probabilities mean what they say, on validation images."),
    ]
    for name, kind, text in reversed(options):
        default = getattr(_LAYERS, name)
        shown = ",".join(f"{value:g}" for value in default) if isinstance(default, tuple) else default
        flag = f"--{name.replace('_', '-')}"
        function = click.option(
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            type=None if kind is bool else kind,
            default=shown,
            show_default=shown is not None,
            help=text,
        )(function)
    return function


@command("fit-head", COMMANDS["fit-head"])
@click.argument("features", metavar="SET.h5 [SET.h5 ...]", nargs=-1, required=True, type=click.Path())
@click.option(
    "--head",
    default="dense",
    show_default=True,
    help="Trained by Keras: dense, linear, conv. By scikit-learn or in closed form: logistic, ridge, svm, lda, knn, "
    "nb, mlp. Or auto: the best of those.",
)
@click.option("--candidates", help="auto: the heads to compare: logistic,ridge,...  [default: all but Keras's]")
@click.option("--shots", help="Say also how well the head does with so few training images a class: 1,2,5,10.")
@click.option("--draws", type=int, default=5, show_default=True, help="How often images are drawn for each of --shots.")
@click.option("--memory-limit", help="What fitting may take, like 2GB.  [default: half of what is free]")
@head_options
@click.option("--views", type=int, metavar="K", help="Views of each training image to fit to.  [default: all kept]")
@record_options(HEAD_TRAINING)
@click.option("--out", type=click.Path(), metavar="RUN/", help="The run's folder.  [default: runs/<SET>-<head>]")
@progress_option
def fit_head(
    *, features: tuple[str, ...], candidates: str | None, shots: str | None, as_json: bool, **options: Any
) -> None:
    """Fit a head to kept features and export one Keras model.

    Several sets of the same images, of other cuts, poolings or bases, are compared. The model takes
    images of any size, 0 to 255, and gives probabilities; it opens with plain Keras.
    """
    settings: dict[str, Any] = {
        name: parse_numbers(name, value) if name in PER_LAYER else value for name, value in options.items()
    }
    from permafrost.heads.fit import fit_head as fit

    if candidates:
        settings["candidates"] = candidates.split(",")
    if shots:
        settings["shots"] = parse_numbers("shots", shots)
    run = fit(features, **settings)
    show(run.describe(), run_lines(run), as_json=as_json)


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """One number for each layer: `256`, `512,128`; for units `0` is no layer.

    Raises:
        OptionError: no numbers.
    """
    kind: type[float] = float if name == "filter_dropout" else int
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        expected = "0.25, or 0.25,0" if kind is float else "256, or 512,128, or 0"
        raise OptionError(f"--{name.replace('_', '-')} is not understood", expected=expected, found=text) from error
    return () if numbers == (0,) and kind is int else numbers


def run_lines(run: Any) -> list[str]:
    """What a run is, as lines for people."""
    return [
        *(f"features: {way}" for way in [run.about["details"].get("way")] if way),
        *leaderboard_lines(run.about.get("leaderboard", [])),
        *(
            f"{row['shots']} a class: accuracy {row['accuracy']:.4f} ± {row['accuracy_spread']:.4f}, "
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
    """What was compared, the best first, as a table."""
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
    """What was chosen on held-out images once the head was fitted, as lines."""
    lines = []
    if calibration and not calibration["identifiable"]:
        lines.append(
            f"calibration: all {calibration['n']:,} images of {calibration['split']} are right, "
            "so that no temperature is the best for them; none is applied"
        )
    elif calibration:
        applied = "applied" if calibration["applied"] else "not applied (--calibrate temperature does)"
        lines.append(
            f"calibration: temperature {calibration['temperature']:.3g} would bring the error from "
            f"{calibration['error_before']:.4f} to {calibration['error_after']:.4f} "
            f"on {calibration['split']}; {applied}"
        )
    if threshold:
        lines.append(
            f"threshold: {threshold['class']} from {threshold['threshold']:.3f} on has the best balanced accuracy, "
            f"{threshold['balanced_accuracy']:.4f}, on {threshold['split']}"
        )
    return lines
