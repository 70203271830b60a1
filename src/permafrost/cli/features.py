"""`features`: what is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.common import command, show, size
from permafrost.errors import SetError


@click.group("features", help=COMMANDS["features"], short_help=COMMANDS["features"])
def features() -> None:
    """The commands below `features`."""


@command("list", "List the feature sets in a folder.")
@click.argument("folder", default="features", type=click.Path())
def list_sets(*, folder: str, as_json: bool) -> None:
    """List the feature sets in a folder.

    FOLDER is `features` unless another is given.
    """
    from permafrost.feature_set import open_features

    if not Path(folder).is_dir():
        raise SetError(f"no folder {folder}", do="make a feature set with extract")
    entries: list[dict[str, Any]] = []
    for path in sorted(Path(folder).glob("*.h5")):
        try:
            described = open_features(path).describe()
            entries.append({key: described[key] for key in ("set", "data", "pictures", "shape", "key")})
            entries[-1] |= {key: described["trunk"][key] for key in ("base", "cut", "pooling", "image_size")}
        except SetError as error:
            entries.append({"set": str(path), "error": str(error)})
    lines = [_line(entry) for entry in entries] or [f"no feature sets in {folder}"]
    show(entries, lines, as_json=as_json)


@command("show", "Show what a feature set holds.")
@click.argument("path", metavar="SET.h5", type=click.Path())
def show_set(*, path: str, as_json: bool) -> None:
    """Show what a feature set holds.

    Its pictures and classes, the trunk that its features came from, and what was set aside, with the reasons.
    """
    from permafrost.feature_set import open_features

    opened = open_features(path)
    described, spec = opened.describe(), opened.spec
    kept = sum(entry.stat().st_size for entry in os.scandir(described["store"]) if entry.is_file())
    lines = [
        f"data: {described['data']}",
        f"classes: {', '.join(described['classes'])}",
        *(
            f"{name}: {split['n']:,} ({', '.join(f'{label} {n:,}' for label, n in split['classes'].items())})"
            for name, split in described["splits"].items()
        ),
        f"base: {spec.base}, weights {spec.weights_source}, cut {spec.cut}, pooling {spec.pooling}",
        f"pictures seen at {spec.image_size[0]}x{spec.image_size[1]}, preprocessing {spec.preprocessing}",
        f"features: shape {opened.shape}, {spec.dtype}, computed in {spec.precision}",
        *([f"views: {opened.views} of each training picture, {opened.augmentation}"] if opened.views > 1 else []),
        *(f"set aside: {entry['path']}: {entry['reason']}" for entry in described["set_aside"]),
        f"store: {described['store']} ({size(kept)}, {described['shards']} shards hold this set)",
        f"set: {path}",
    ]
    show(described, lines, as_json=as_json)


def _line(entry: dict[str, Any]) -> str:
    if "error" in entry:
        return f"{entry['set']}: {entry['error']}"
    return (
        f"{entry['set']}: {entry['pictures']:,} pictures, {entry['base']} {entry['cut']}, "
        f"shape {tuple(entry['shape'])}, key {entry['key']}"
    )


features.add_command(list_sets)
features.add_command(show_set)
