"""`predict`: classify images with a model."""

from __future__ import annotations

from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show


@command("predict", COMMANDS["predict"])
@click.argument("model", metavar="RUN/|MODEL.keras", type=click.Path())
@click.argument("images", metavar="IMAGE|FOLDER...", nargs=-1, required=True, type=click.Path())
@click.option("--top", type=int, default=3, show_default=True, help="Number of classes to show per image.")
def predict(*, model: str, images: tuple[str, ...], top: int, as_json: bool) -> int:
    """Classify images with a model.

    A FOLDER stands for all images in it and in its subfolders, except hidden ones. If an image cannot be decoded, the
    others are still classified, and the exit status is 2.
    """
    from permafrost.model.predict import predict as run

    answers = run(model, images, top=top)
    show(answers, [_line(answer) for answer in answers], as_json=as_json)
    bad = [answer for answer in answers if "error" in answer]
    for answer in bad:
        click.echo(f"permafrost predict: bad image {answer['path']}: {answer['error']}", err=True)
    return 2 if bad else 0


def _line(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"{answer['path']}: bad image"
    return f"{answer['path']}: " + ", ".join(f"{best['label']} {best['probability']:.4f}" for best in answer["top"])
