"""A run finds its feature set wherever the project lies, and refuses another set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import permafrost as pf
from helpers import edit_json, one_error_line, point_to
from permafrost.errors import RunError, SetError
from permafrost.finetuning.run_features import find_features

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]
QUICK = {"epochs": 1, "learning_rate": 0.05, "progress": False}


@pytest.fixture
def project(own_features, sloppy_run, tmp_path) -> Path:
    """A folder with `features/` and `runs/first`, whose run records the set in it."""
    project = tmp_path / "project"
    shutil.copytree(own_features.path.parent, project / "features")
    run = Path(shutil.copytree(sloppy_run.folder, project / "runs" / "first"))
    point_to(run, pf.open_features(project / "features" / own_features.path.name))
    return project


def test_a_run_records_its_set_by_an_absolute_path_and_relative_to_its_folder(run, features):
    assert run.about["features"] == str(features.path)
    assert Path(os.path.normpath(run.folder / run.about["features_relative"])) == features.path


def test_a_run_of_a_project_folder_that_has_moved_is_fine_tuned_and_so_is_the_run_that_comes_of_it(project, tmp_path):
    moved = project.rename(tmp_path / "elsewhere")

    tuned = pf.finetune(moved / "runs" / "first", "top", out=moved / "runs" / "tuned", **QUICK)

    assert tuned.about["features"] == str(next((moved / "features").glob("*.h5")))
    again = moved.rename(tmp_path / "third")
    assert find_features(pf.open_run(again / "runs" / "tuned")).path.parent == again / "features"


def test_the_images_of_a_project_folder_that_has_moved_are_found(split_photos, tiny_base, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(split_photos, project / "photos")
    options = {"base": str(tiny_base), "pool": "avg", "out": project / "features" / "set.h5", "progress": False}
    features = pf.extract(project / "photos", **options)
    pf.fit_head(features, "logistic", out=project / "runs" / "first", progress=False)
    moved = project.rename(tmp_path / "moved")

    tuned = pf.finetune(moved / "runs" / "first", "top", views="live", out=moved / "runs" / "tuned", **QUICK)

    assert tuned.about["data"] == str(moved / "photos")
    assert not tuned.about["parity"]["synthetic"]
    third = moved.rename(tmp_path / "third")
    assert find_features(pf.open_run(third / "runs" / "tuned")).root == str(third / "photos")


def test_a_run_that_has_moved_alone_finds_its_set_by_the_absolute_path(project, tmp_path):
    moved = Path(shutil.move(project / "runs" / "first", tmp_path / "alone"))

    assert find_features(pf.open_run(moved)).path.parent == project / "features"


def test_a_copy_of_a_project_uses_its_own_set(project, tmp_path):
    copy = Path(shutil.copytree(project, tmp_path / "copy"))

    assert find_features(pf.open_run(copy / "runs" / "first")).path.parent == copy / "features"


def test_another_set_at_the_relative_path_does_not_hide_the_one_at_the_absolute_path(project, features, maps):
    run = project / "runs" / "first"
    edit_json(run / "run.json", lambda about: about.update(features_relative=os.path.relpath(maps.path, run)))

    assert find_features(pf.open_run(run)).digest == features.digest


def test_a_set_of_another_version_at_the_relative_path_does_not_hide_the_one_at_the_absolute_path(project, features):
    run = project / "runs" / "first"
    old = Path(__file__).parents[1] / "formats" / "version-1" / "photos.h5"
    edit_json(run / "run.json", lambda about: about.update(features_relative=os.path.relpath(old, run)))

    assert find_features(pf.open_run(run)).digest == features.digest


def test_a_run_whose_trunk_has_other_fields_is_named_as_another_versions(project):
    run = project / "runs" / "first"
    edit_json(run / "run.json", lambda about: about["trunk"].update(colors="rgb"))

    with pytest.raises(RunError, match=r"first is a run of another version: the description of a trunk does not have"):
        find_features(pf.open_run(run))


def test_a_set_that_is_gone_is_refused_with_the_paths_that_were_tried(project, tmp_path):
    (path,) = (project / "features").glob("*.h5")
    moved = project.rename(tmp_path / "elsewhere")
    new = moved / "features" / path.name
    new.rename(tmp_path / "hidden.h5")

    with pytest.raises(SetError) as caught:
        find_features(pf.open_run(moved / "runs" / "first"))

    assert one_error_line(caught.value) == (
        f"the feature set of {moved / 'runs' / 'first'} is gone; expected {new} or {path}, found no file there. "
        "Move it back, or name it with --features SET.h5"
    )


def test_a_set_can_be_named(project, features, tmp_path):
    run = project / "runs" / "first"
    shutil.rmtree(project / "features")

    assert find_features(pf.open_run(run), features.path).path == features.path
    assert pf.finetune(run, "top", features=features, out=tmp_path / "tuned", **QUICK).about["features"] == str(
        features.path
    )


def test_a_named_set_that_is_another_is_refused(run, maps):
    with pytest.raises(RunError, match=r"is not the feature set that .* was fitted to: pooling; expected avg, found"):
        find_features(run, maps)
