"""Find the feature set that a run was fitted to, and check that it has not changed."""

from __future__ import annotations

import os
from pathlib import Path

from permafrost.errors import RunError, SetError, VersionError
from permafrost.model.run import Run
from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.trunk.spec import TrunkSpec, first_difference


def find_features(run: Run, given: FeatureSet | str | os.PathLike[str] | None = None) -> FeatureSet:
    """Open the feature set that a run was fitted to.

    A run records its set's path relative to its own folder and as an absolute path, so the set is found after the
    project's folder has moved, and after the run alone has moved.

    Args:
        run: the run.
        given: the set, or its file; None for the one that the run records.

    Raises:
        RunError: the set has different images, labels or splits, or a different trunk; the message says which.
        SetError: there is no set at the recorded paths, or it is damaged.
    """
    if given is not None:
        features = given if isinstance(given, FeatureSet) else open_features(given)
        _require_same(run, features)
        return features
    paths = recorded_paths(run)
    found = [path for path in paths if path.is_file()]
    if not found:
        raise SetError(
            f"the feature set of {run.folder} is gone",
            expected=" or ".join(map(str, paths)),
            found="no file there",
            do="move it back, or name it with --features SET.h5",
        )
    for path in found[:-1]:
        try:
            return find_features(run, path)
        except (RunError, SetError, VersionError):
            continue  # Another set is at this path now; the run's own may be at the other.
    return find_features(run, found[-1])


def recorded_paths(run: Run) -> list[Path]:
    """Return the possible paths of a run's set: relative to the run's folder, then the absolute one."""
    relative = Path(os.path.normpath(os.path.join(os.path.abspath(run.folder), run.about["features_relative"])))
    return list(dict.fromkeys([relative, Path(run.about["features"])]))


def _require_same(run: Run, features: FeatureSet) -> None:
    what = f"{features.path} is not the feature set that {run.folder} was fitted to"
    try:
        spec = TrunkSpec.from_json(run.about["trunk"])
    except VersionError as error:
        raise RunError(f"{run.folder} is a run of another version: {error}", do="fit the head again") from error
    difference = first_difference(spec, features.spec)
    if difference:
        field, expected, found = difference
        raise RunError(f"{what}: {field}", expected=expected, found=found, do="fit the head again")
    if tuple(features.class_names) != run.class_names:
        raise RunError(
            f"{what}: classes",
            expected=", ".join(run.class_names),
            found=", ".join(features.class_names),
            do="fit the head again",
        )
    if features.digest != run.about["features_digest"]:
        raise RunError(f"{what}: images, labels or splits", do="fit the head again")
