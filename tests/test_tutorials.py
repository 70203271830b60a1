"""The commands of `docs/tutorials.md` run, on a small sample and with a tiny base."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from permafrost.cli import run
from permafrost.trunk.table import parse_base
from samples import PX, texture, write_photos

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its own data pipeline is compiled all the same.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorials.md"
SECTIONS = {
    title: [shlex.split(line.removeprefix("bin/")) for line in re.findall(r"^bin/.*$", block, re.MULTILINE)]
    for title, block in re.findall(r"^## (.*?)\n.*?^```\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
}
"""The commands of each section."""
SMALLER = {
    "--cut": "top",
    "--image-size": str(PX),
    "--unfreeze": "joined",
    "--hidden": "8",
    "--filters": "4,4",
    "--epochs": "1",
    "--views": "2",
}
"""Options of the page that the tests replace, to suit a tiny base and a small sample."""


def shrunk(command: list[str], tiny_base: Path, set_name: str) -> list[str]:
    """Return a command line of the page for the tiny base, whose feature set has another name."""
    line = [re.sub(r"^(features|runs)/[\w.]+-\w+-[a-z]+\d+(_pool)?", rf"\1/{set_name}", word) for word in command]
    for option, value in SMALLER.items():
        if option in line:
            line[line.index(option) + 1] = value
    if "--base" in line:
        line[line.index("--base") + 1] = str(tiny_base)
    if "--weights" in line:
        at = line.index("--weights")
        del line[at : at + 2]
    return [*line, "--json"]


@pytest.fixture
def sample(tmp_path, monkeypatch) -> Path:
    """A folder with `photos` and `photos.npz`, as on the page."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", per_class=14)
    kinds = ("dots", "stripes")
    pixels = np.stack([texture(kinds[i % 2], i) for i in range(24)])
    labels = np.arange(24) % 2
    np.savez("photos.npz", X_train=pixels[:18], y_train=labels[:18], X_test=pixels[18:], y_test=labels[18:])
    return tmp_path


def test_the_page_has_five_tutorials():
    assert len(SECTIONS) == 5
    assert all([line[0] for line in lines][:2] == ["extract", "fit-head"] for lines in SECTIONS.values())


@pytest.mark.parametrize("title", SECTIONS)
def test_the_bases_of_a_tutorial_exist(title):
    for line in SECTIONS[title]:
        if "--base" in line:
            assert parse_base(line[line.index("--base") + 1])


@pytest.mark.parametrize("title", SECTIONS)
def test_the_commands_of_a_tutorial_run_one_after_the_other(title, sample, tiny_base, capsys):
    set_name = ""
    for line in SECTIONS[title]:
        capsys.readouterr()
        assert run(shrunk(line, tiny_base, set_name)) == 0, capsys.readouterr().err
        found = json.loads(capsys.readouterr().out)

        if line[0] == "extract":
            assert found["computed"] > 0
            set_name = Path(found["set"]).stem
        elif line[0] in ("fit-head", "finetune"):
            assert found["metrics"]["test"]["n"] > 0
            assert found["parity"]["resized_max_difference"] <= 1e-4
        else:
            assert 0 <= found["accuracy"] <= 1
