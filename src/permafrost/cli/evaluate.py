"""`evaluate`: compute a model's metrics on a dataset."""

from __future__ import annotations

from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.options import record_options
from permafrost.cli.text import absent_class_lines, metrics_line, remark_lines, skipped_lines
from permafrost.images.options import ReadingOptions


@command("evaluate", COMMANDS["evaluate"])
@click.argument("model", metavar="RUN/|MODEL.keras", type=click.Path())
@click.argument("data", type=click.Path())
@click.option(
    "--split",
    metavar="test|validation|train|all",
    help="The images to score. all scores every image.  [default: test, or all if the run knows none of the images]",
)
@record_options(ReadingOptions, only=["layout"])
def evaluate(*, model: str, data: str, as_json: bool, **options: Any) -> None:
    """Evaluate a model on one split of a dataset, or on all of it.

    A run knows the images that it was made from by their content, wherever they are now: they have the run's split,
    whatever the dataset says, and what it was trained on is never scored as test. Other images have the split that the
    dataset gives them, if any. Images are read from their files at full size; the model itself resizes them.
    """
    from permafrost.model.evaluate import evaluate as run

    metrics = run(model, data, **options)
    split = metrics["split"]
    lines = [
        *remark_lines(metrics),
        *absent_class_lines(split, metrics),
        *skipped_lines(metrics),
        *(_class_line(name, values) for name, values in metrics["classes"].items()),
        f"scored {metrics['n']:,} of {metrics['images']:,} images: {_what(metrics)}",
        metrics_line(split, metrics),
    ]
    show(metrics, lines, as_json=as_json)


def _what(metrics: dict[str, Any]) -> str:
    """Say which images were scored."""
    if metrics["split"] != "all":
        whose = "the run's" if metrics["known"] else "the dataset's"
        return f"{whose} {metrics['split']} images"
    return "all of them" if metrics["known"] is None else f"all, of which the run knows {metrics['known']:,}"


def _class_line(name: str, values: dict[str, Any]) -> str:
    scores = ", ".join(
        f"{key} {'n/a' if values[key] is None else format(values[key], '.4f')}" for key in ("precision", "recall", "f1")
    )
    return f"  {name}: {scores}, {values['n']:,} images"
