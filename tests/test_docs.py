"""The documentation is true: commands parse, examples run, links resolve, lists are complete."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

import permafrost as pf
from permafrost import errors
from permafrost.cli import COMMANDS, program
from permafrost.heads.table import find_head
from permafrost.trunk.table import BASES, parse_base
from samples import write_photos

pytest_plugins = ["upper"]
# TensorFlow warns that its own data pipeline is compiled all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.md"
PAGES = [ROOT / "README.md", ROOT / "features" / "README.md", RESULTS, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str = "") -> list[str]:
    """Return the fenced blocks of a page in this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind == language]


def command_lines(page: Path) -> list[str]:
    """Return the lines of a page's fenced blocks that run a program of `bin/`."""
    return [line for block in blocks(page) for line in block.splitlines() if line.startswith("bin/")]


def parsed(line: str) -> click.Context:
    """Parse a command line without running it."""
    name, *arguments = shlex.split(line.removeprefix("bin/"))
    command = program.get_command(click.Context(program), name)
    assert command is not None, f"no command {name}"
    if isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    return command.make_context(name, arguments)


COMMAND_LINES = sorted({line for page in PAGES for line in command_lines(page) if not line.startswith("bin/test")})
PYTHON_BLOCKS = [(page, block) for page in PAGES for block in blocks(page, "python")]


def test_the_readme_shows_every_command():
    lines = [line for line in command_lines(ROOT / "README.md") if line != "bin/test"]

    shown = {line.split()[0].removeprefix("bin/") for line in lines}

    assert shown == set(COMMANDS)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_documented_command_parses_and_names_a_known_base_and_head(line):
    options = parsed(line).params

    if options.get("base") and not options["base"].startswith("runs/"):
        assert parse_base(options["base"])
    if options.get("head", "auto") != "auto":
        assert find_head(options["head"]).name == options["head"]


def test_a_documented_command_with_an_unknown_option_would_fail():
    with pytest.raises(click.NoSuchOption):
        parsed("bin/extract photos --bass inception_v3")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_program_in_bin(name):
    path = ROOT / "bin" / name

    assert os.access(path, os.X_OK)
    assert path.read_text().splitlines()[-1] == f'exec "$(dirname -- "$0")/permafrost" {name} "$@"'


def test_bin_has_no_other_programs():
    assert set(os.listdir(ROOT / "bin")) == {*COMMANDS, "permafrost", "test"}


@pytest.mark.parametrize("name", ["commands", "errors"])
def test_a_page_that_a_tool_writes_is_up_to_date(name):
    tool = f"write_{name}"
    code = f"import {tool}; print({tool}.page(), end='')"
    # In a separate process, so that width and colours of the terminal do not matter.
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools", capture_output=True, text=True, check=True)

    assert (ROOT / "docs" / f"{name}.md").read_text("utf-8") == done.stdout, f"run python tools/{tool}.py"


def test_the_page_of_errors_has_every_error_and_the_fixed_part_of_a_line():
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)` \| \w[^|]+ \| [^| ][^|]+ \|$", page, re.MULTILINE)
    known = {name for name, value in vars(errors).items() if isinstance(value, type)} - {"PermafrostError"}

    assert set(listed) == {name for name in known if issubclass(getattr(errors, name), errors.PermafrostError)}
    for line in ("only one class in `{root}`", "unknown base `{spelled}`", "its checksum does not match"):
        assert line in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_existing_files_and_headings(page):
    links = re.findall(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text("utf-8"))
    local = [(page.parent / path if path else page, anchor) for path, anchor in links if "://" not in path]

    assert [str(path) for path, _ in local if not path.exists()] == []
    assert [(str(path), anchor) for path, anchor in local if anchor and anchor not in anchors(path)] == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_links_to_every_page():
    linked = re.findall(r"\]\(([^)]+\.md)\)", (ROOT / "README.md").read_text("utf-8"))

    assert {ROOT / link for link in linked} == set(PAGES[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_source_files_that_a_page_names_exist(page):
    named = re.findall(r"`((?:src|bin|tests|docs|tools|benchmarks)/[\w./-]+)`", page.read_text("utf-8"))

    assert [name for name in named if name != "bin/NAME" and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_set_names_of_a_page_have_a_known_base(page):
    named = re.findall(r"features/photos-([\w.]+)-\w+\.h5", page.read_text("utf-8"))

    assert set(named) <= {name.replace("-", "_") for name in BASES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_public_names_that_a_page_uses_exist(page):
    named = set(re.findall(r"\bpf\.(\w+)", page.read_text("utf-8")))

    assert named <= set(pf.__all__)


@pytest.mark.parametrize(("page", "block"), PYTHON_BLOCKS, ids=lambda value: getattr(value, "stem", ""))
def test_the_keywords_of_a_python_example_are_documented_arguments(page, block):
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    for call in calls:
        if ast.unparse(call.func).startswith("pf."):
            function = getattr(pf, ast.unparse(call.func).removeprefix("pf."))
            assert [each.arg for each in call.keywords if not documents(function, each.arg)] == []


def documents(function: Callable, keyword: str | None) -> bool:
    """Return whether a keyword is an argument of a public function that its docstring describes."""
    return f"\n        {keyword}: " in (function.__doc__ or "")


def test_the_readme_lists_the_files_of_a_run(run):
    text = (ROOT / "README.md").read_text("utf-8")

    listed = re.search(r"writes a run: (.*?)\.\s", text, re.DOTALL)

    assert listed
    assert set(re.findall(r"`([\w.]+)`", listed.group(1))) == set(os.listdir(run.folder))


@pytest.fixture
def working_folder(tmp_path, tiny_base, monkeypatch) -> Path:
    """A working folder for the examples: `photos` with images of each split, `holiday`, and a tiny base."""
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
"""The README's example with a base that needs a download, and the same with the tiny base."""


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
    assert str(run.folder) == f"runs/{features.path.stem}-logistic"
    assert names["answers"][0]["label"] == "dots"
    assert "runs/photos-inception_v3-mixed7-logistic" in load_model
    exec(compile(load_model.replace("photos-inception_v3-mixed7", features.path.stem), "README.md", "exec"), names)
    assert names["model"].outputs[0].shape == (None, 3)


def test_features_are_readable_without_permafrost_as_the_format_says(working_folder):
    (example,) = blocks(ROOT / "features" / "README.md", "python")
    out = "features/photos-inception_v3-mixed7.h5"
    assert out in example
    features = pf.extract("photos", base="tiny.keras", pool="avg", out=out, progress=False)

    names: dict = {}
    exec(compile(example, "features/README.md", "exec"), names)

    expected_x, expected_y = features.arrays()
    assert "permafrost" not in example
    assert np.array_equal(names["X"], expected_x)
    assert np.array_equal(names["y"], expected_y)
