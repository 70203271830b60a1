"""`fit-head`: a feature set in, a run with one Keras model out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from permafrost.cli import COMMANDS
from permafrost.cli.common import (
    command,
    duration,
    figures_line,
    parity_lines,
    progress_option,
    show,
    training_options,
)
from permafrost.errors import OptionError
from permafrost.heads import SEVERAL, HeadOptions
from permafrost.training_options import HEAD_TRAINING

_LAYERS: Final = HeadOptions(training=HEAD_TRAINING)


def head_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `heads.HeadOptions`, with its defaults."""
    options: list[tuple[str, Any, str]] = [
        ("hidden", str, "dense, conv, mlp: units of each hidden layer: 256, 512,128, or 0 for none."),
        ("dropout", float, "dense, conv: share of units dropped in training."),
        ("batch_norm", bool, "dense, conv: normalise hidden layers and convolutions over each batch."),
        ("l2", float, "linear, dense, conv: penalty of squared weights."),
        ("filters", str, "conv: filters of each convolution: 32,64."),
        ("kernel_size", int, "conv: size of the convolutions."),
        ("pool_size", int, "conv: size of the pooling after each."),
        ("filter_dropout", str, "conv: share dropped after each pooling: 0.25, or 0.25,0."),
        (
            "regularization",
            float,
            "logistic, svm: C, the inverse strength; ridge, mlp: alpha; lda: shrinkage; nb: smoothing.  "
            "[default: chosen by cross-validation]",
        ),
        ("neighbours", int, "knn: how many.  [default: chosen by cross-validation]"),
        ("pca", float, "Reduce features first to so many principal components, or to a share of the variance."),
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
@click.argument("features", metavar="SET.h5", type=click.Path())
@click.option(
    "--head",
    default="dense",
    show_default=True,
    help="Trained by Keras: dense, linear, conv. By scikit-learn or in closed form: logistic, ridge, svm, lda, knn, "
    "nb, mlp.",
)
@head_options
@training_options(HEAD_TRAINING)
@click.option("--out", type=click.Path(), metavar="RUN/", help="The run's folder.  [default: runs/<SET>-<head>]")
@progress_option
def fit_head(*, features: str, as_json: bool, **options: Any) -> None:
    """Fit a head to kept features and export one Keras model.

    The model takes pictures of any size, 0 to 255, and gives probabilities; it opens with plain Keras.
    """
    settings: dict[str, Any] = {
        name: parse_numbers(name, value) if name in SEVERAL else value for name, value in options.items()
    }
    from permafrost.fitting import fit_head as fit

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
        *(figures_line(split, run.metrics[split]) for split in ("train", "validation", "test")),
        *parity_lines(run.about["parity"]),
        f"time: {duration(run.about['seconds']['total'])}",
        f"run: {run.folder}",
        f"model: {run.model_path}",
    ]
