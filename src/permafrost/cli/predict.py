"""`predict`: classify images with a model."""

from __future__ import annotations

from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.errors import one_line
from permafrost.images.skipped import commonest


@command("predict", COMMANDS["predict"])
@click.argument("model", metavar="RUN/|MODEL.keras", type=click.Path())
@click.argument("images", metavar="IMAGE|FOLDER...", nargs=-1, required=True, type=click.Path())
@click.option("--top", type=int, default=3, show_default=True, help="Number of classes to show per image.")
def predict(*, model: str, images: tuple[str, ...], top: int, as_json: bool) -> int:
    """Classify images with a model.

    A FOLDER stands for all images in it and in its subfolders, except hidden ones; what else is in it is skipped. If an
    image cannot be decoded, the others are still classified, and the exit status is 2.
    """
    from permafrost.images.folders.found import find_images
    from permafrost.model.predict import predict_found

    found = find_images(images)
    for reason, count, example in commonest(found.skipped):
        click.echo(f"permafrost predict: skipped {count:,}: {one_line(f'{reason}, such as {example}')}", err=True)
    answers = predict_found(model, found, top=top, note=lambda line: click.echo(f"note: {one_line(line)}", err=True))
    show(answers, [_line(answer) for answer in answers], as_json=as_json)
    bad = [answer for answer in answers if "error" in answer]
    for answer in bad:
        line = one_line(f"bad image {answer['path']}: {answer['error']}")
        click.echo(f"permafrost predict: {line}", err=True)
    return 2 if bad else 0


def _line(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"{answer['path']}: bad image"
    return f"{answer['path']}: " + ", ".join(f"{best['label']} {best['probability']:.4f}" for best in answer["top"])
