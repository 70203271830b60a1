"""`features`: list, show, verify, prune and export feature sets."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import click

from permafrost.cli import COMMANDS
from permafrost.cli.command import command, show
from permafrost.cli.text import class_lines, duplicate_lines, split_lines
from permafrost.errors import SetError, StoreError
from permafrost.options import as_path
from permafrost.units import size


@click.group("features", help=COMMANDS["features"], short_help=COMMANDS["features"])
def features() -> None:
    """Group the commands of `features`."""


@command("list", "List the feature sets in a folder.")
@click.argument("folder", default="features", type=click.Path())
def list_sets(*, folder: str, as_json: bool) -> None:
    """List the feature sets in a folder.

    FOLDER is `features` by default.
    """
    from permafrost.store.feature_set import open_features
    from permafrost.store.verification import set_files, stores_of_other_versions

    place = as_path(folder, "a folder of feature sets")
    if not place.is_dir():
        raise SetError(f"no such folder: {folder}", do="make a feature set with extract")
    entries: list[dict[str, Any]] = []
    for path in set_files(place):  # A damaged one is listed with its error.
        try:
            opened = open_features(path)
            entry = {"data": opened.root, "images": len(opened), "shape": list(opened.shape), "key": opened.spec.key}
            trunk = opened.spec.to_json()
            entry |= {key: trunk[key] for key in ("base", "cut", "pooling", "image_size")}
            entries.append({"set": str(path), **entry})
        except StoreError as error:
            entries.append({"set": str(path), "error": str(error)})
    entries += [{"store": str(path), "error": str(error)} for path, error in stores_of_other_versions(place)]
    lines = [_line(entry) for entry in entries] or [f"no feature sets in {folder}"]
    show(entries, lines, as_json=as_json)


@command("show", "Show what a feature set holds.")
@click.argument("path", metavar="SET.h5", type=click.Path())
def show_set(*, path: str, as_json: bool) -> None:
    """Show what a feature set holds.

    Prints its classes and splits, how the splits came about, its trunk, duplicate images, and the skipped files with
    reasons.
    """
    from permafrost.store.description import describe_set
    from permafrost.store.feature_set import open_features

    opened = open_features(path)
    described, spec, used = describe_set(opened), opened.spec, opened.store.size()
    lines = [
        *(f"warning: {line}" for line in described["warnings"]),
        f"data: {described['data']}",
        *class_lines(described["splits"], maximum=None),
        *split_lines(described),
        f"base: {spec.base}, weights {spec.weights_source}, cut {spec.cut}, pooling {spec.pooling}",
        f"image size {spec.image_size[0]}x{spec.image_size[1]}, preprocessing {spec.preprocessing}",
        f"features: shape {opened.shape}, {spec.dtype}, computed in {spec.precision}",
        *([f"views: {opened.views} of each training image, {opened.augmentation}"] if opened.views > 1 else []),
        *(f"skipped: {entry['path']}: {entry['reason']}" for entry in described["skipped"]),
        *duplicate_lines(described["duplicates"], maximum=None),
        f"store: {described['store']} ({size(used)}, {described['shards']} shards with rows of this set)",
        f"set: {path}",
    ]
    show(described, lines, as_json=as_json)


@command("verify", "Read and check all cached features.")
@click.argument("path", default="features", metavar="[SET.h5|STORE|FOLDER]", type=click.Path())
def verify_features(*, path: str, as_json: bool) -> None:
    """Read and check all cached features.

    Reports what is damaged, missing, foreign (from another trunk, or not part of a store) or duplicate (rows that are
    cached twice, which only costs space). Exits with status 2 if features cannot be read; running the same extract
    computes them again.
    """
    from permafrost.store.verification import verify

    report = verify(path)
    lines = [f"{finding.kind}: {finding.message}" for finding in report.findings]
    lines.append(f"read {report.sets:,} sets, {report.shards:,} shards, {report.rows:,} rows, {size(report.bytes)}")
    show(dataclasses.asdict(report) | {"faults": report.faults}, lines, as_json=as_json)
    if report.faults:
        raise StoreError(
            f"{report.faults:,} fault{'s' if report.faults > 1 else ''} in {path}",
            do="run the same extract again: it computes what is missing; `features prune` removes what is damaged",
        )


@command("prune", "Remove cached features that no set uses.")
@click.argument("folder", default="features", type=click.Path())
@click.option(
    "--yes", is_flag=True, help="Do not ask for confirmation. Without it and without a terminal nothing is removed."
)
def prune_features(*, folder: str, yes: bool, as_json: bool) -> None:
    """Remove cached features that no set uses.

    Removes shards and stores that no set in FOLDER uses, and the temporary files of processes that died. Lists them
    with their size first. Features that never belonged to a set, such as those of a scikit-learn pipeline or of
    fine-tuning, are removed too; they can be computed again.
    """
    from permafrost.store.pruning import Pruning, prune

    def confirm(pruning: Pruning) -> bool:
        lines = [f"{removal.path}: {removal.why}, {size(removal.bytes)}" for removal in pruning.removals]
        lines += [f"{spared.path}: left alone: {spared.why}" for spared in pruning.spared]
        if not as_json:
            show(None, lines, as_json=False)
        ask = sys.stdin.isatty() and not as_json
        return bool(pruning.removals) and (yes or (ask and click.confirm(f"remove {size(pruning.bytes)}?")))

    pruning, done = prune(folder, confirm=confirm)
    if not pruning.removals:
        last = "nothing to remove: sets use all cached features"
    else:
        last = f"{'removed' if done else 'would remove'} {len(pruning.removals):,} entries, {size(pruning.bytes)}"
        last += "" if done else "; --yes removes them"
    show(dataclasses.asdict(pruning) | {"bytes": pruning.bytes, "removed": done}, [last], as_json=as_json)


@command("export", "Write a feature set to one plain file.")
@click.argument("path", metavar="SET.h5", type=click.Path())
@click.argument("out", metavar="OUT.h5|OUT.npz", type=click.Path())
def export_set(*, path: str, out: str, as_json: bool) -> None:
    """Write a feature set to one plain file.

    The file holds X, y, paths, class_names and splits, for programs that read HDF5 or NumPy files.
    """
    from permafrost.store.export import export_features
    from permafrost.store.feature_set import open_features

    features = open_features(path)
    written = export_features(features, out)
    written_bytes = written.stat().st_size
    summary = {"file": str(written), "images": len(features), "shape": list(features.shape), "bytes": written_bytes}
    lines = [
        f"X: {len(features):,} images, shape {features.shape}, float32",
        f"file: {written} ({size(written_bytes)})",
    ]
    show(summary, lines, as_json=as_json)


def _line(entry: dict[str, Any]) -> str:
    if "error" in entry:
        return f"{entry.get('set') or entry['store']}: {entry['error']}"
    return (
        f"{entry['set']}: {entry['images']:,} images, {entry['base']} {entry['cut']}, "
        f"shape {tuple(entry['shape'])}, key {entry['key']}"
    )


features.add_command(list_sets)
features.add_command(show_set)
features.add_command(verify_features)
features.add_command(prune_features)
features.add_command(export_set)
