"""What is written down is true: commands parse, examples run, links lead somewhere, lists are complete."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

import permafrost as pf
from permafrost import errors
from permafrost.cli import COMMANDS, program
from permafrost.heads.table import find_head
from permafrost.trunk.bases import parse_base
from samples import write_photos

pytest_plugins = ["upper"]
# TensorFlow says that its own part of reading data is compiled all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "features" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced blocks of a page that are in this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind == language]


def command_lines(page: Path) -> list[str]:
    """The lines of a page's fenced blocks that run a program of `bin/`."""
    return [line for block in blocks(page) for line in block.splitlines() if line.startswith("bin/")]


def parsed(line: str) -> click.Context:
    """A command line, parsed and not run."""
    name, *arguments = shlex.split(line.removeprefix("bin/"))
    command = program.get_command(click.Context(program), name)
    assert command is not None, f"no command {name}"
    if isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    return command.make_context(name, arguments)


README_LINES = [line for line in command_lines(ROOT / "README.md") if line != "bin/test"]


def test_the_readme_shows_every_command_that_takes_images_to_a_model():
    shown = {line.split()[0].removeprefix("bin/") for line in README_LINES}

    assert shown == set(COMMANDS)


@pytest.mark.parametrize("line", README_LINES)
def test_a_command_of_the_readme_parses_and_names_things_that_there_are(line):
    options = parsed(line).params

    if options.get("base"):
        assert parse_base(options["base"])
    if options.get("head"):
        assert callable(find_head(options["head"]))


def test_a_command_of_the_readme_that_had_a_wrong_option_would_be_noticed():
    with pytest.raises(click.NoSuchOption):
        parsed("bin/extract photos --bass inception_v3")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_program_of_its_name_in_bin(name):
    path = ROOT / "bin" / name

    assert os.access(path, os.X_OK)
    assert path.read_text().splitlines()[-1] == f'exec "$(dirname -- "$0")/permafrost" {name} "$@"'


def test_there_is_nothing_else_in_bin():
    assert set(os.listdir(ROOT / "bin")) == {*COMMANDS, "permafrost", "test"}


def test_every_command_and_option_is_on_the_page_of_commands():
    code = "import write_commands; print(write_commands.page(), end='')"
    # In a process of its own: terminals of other widths and colours must not matter.
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools", capture_output=True, text=True, check=True)

    assert (ROOT / "docs" / "commands.md").read_text("utf-8") == done.stdout, "run tools/write_commands.py"


def test_every_error_is_on_the_page_of_errors():
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text("utf-8"), re.MULTILINE)
    known = {name for name, value in vars(errors).items() if isinstance(value, type)} - {"PermafrostError"}

    assert set(listed) == {name for name in known if issubclass(getattr(errors, name), errors.PermafrostError)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_to_a_file_that_there_is(page):
    links = re.findall(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))

    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]

    assert missing == []


def test_the_readme_links_to_every_page():
    linked = re.findall(r"\]\(([^)]+\.md)\)", (ROOT / "README.md").read_text("utf-8"))

    assert {ROOT / link for link in linked} == set(PAGES[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_source_file_that_a_page_names_is_there(page):
    named = re.findall(r"`((?:src|bin|tests|docs|tools)/[\w./-]+)`", page.read_text("utf-8"))

    assert [name for name in named if name != "bin/NAME" and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_takes_from_the_package_is_in_it(page):
    named = set(re.findall(r"\bpf\.(\w+)", page.read_text("utf-8")))

    assert named <= set(pf.__all__)


def test_the_files_that_a_run_has_are_those_that_the_readme_lists(run):
    text = (ROOT / "README.md").read_text("utf-8")

    listed = re.search(r"writes a run: (.*?)\.\s", text, re.DOTALL)

    assert listed
    assert set(re.findall(r"`([\w.]+)`", listed.group(1))) == set(os.listdir(run.folder))


@pytest.fixture
def working_folder(tmp_path, tiny_base, monkeypatch) -> Path:
    """A folder as the examples have it: `photos` with images of each split, `holiday`, and a tiny base."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", per_class=20)
    write_photos(tmp_path / "trip", per_class=1, classes=["dots"])
    (tmp_path / "holiday").mkdir()
    (tmp_path / "trip" / "dots" / "dots-000.png").rename(tmp_path / "holiday" / "001.jpg")
    (tmp_path / "tiny.keras").write_bytes(tiny_base.read_bytes())
    return tmp_path


SUBSTITUTED = {
    'base="inception_v3"': 'base="tiny.keras"',
    'cut="mixed7"': 'cut="top"',
    "image_size=150": "image_size=32",
    'unfreeze="mixed6"': 'unfreeze="joined"',
}
"""What the README's example names of a base with downloaded weights, and the same of the tiny base."""


def test_the_examples_of_the_readme_run_with_a_tiny_base(working_folder, light, capsys):
    load_model, in_python = blocks(ROOT / "README.md", "python")
    for named, tiny in SUBSTITUTED.items():
        assert named in in_python
        in_python = in_python.replace(named, tiny)

    names: dict = {}
    exec(compile(in_python, "README.md", "exec"), names)

    features, run = names["features"], names["run"]
    assert names["X"].dtype == np.float32
    assert names["X"].shape == (len(names["y"]), 16)
    assert names["y"].dtype == np.int64
    assert capsys.readouterr().out == f"{run.metrics['test']['accuracy']}\n"
    assert features.path == Path("features/photos.h5").absolute()
    assert str(run.folder) == "runs/photos-logistic"
    assert names["answers"][0]["label"] == "dots"
    exec(compile(load_model, "README.md", "exec"), names)
    assert names["model"].outputs[0].shape == (None, 3)


def test_features_are_read_without_this_package_as_their_format_says(working_folder):
    (example,) = blocks(ROOT / "features" / "README.md", "python")
    features = pf.extract("photos", base="tiny.keras", pool="avg", progress=False)
    assert features.path == Path("features/photos.h5").absolute()

    names: dict = {}
    exec(compile(example, "features/README.md", "exec"), names)

    expected_x, expected_y = features.arrays()
    assert "permafrost" not in example
    assert np.array_equal(names["X"], expected_x)
    assert np.array_equal(names["y"], expected_y)
