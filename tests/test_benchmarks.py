"""Each benchmark opens with its claim and the command that tries it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if path.name != "common.py")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_opens_with_its_claim_and_its_command(name):
    docstring = ast.get_docstring(ast.parse((BENCHMARKS / name).read_bytes())) or ""

    claim, _, rest = docstring.partition("\n")
    assert re.fullmatch(r"\([a-g]\) .+\.", claim)
    assert f"\n    python benchmarks/{name}" in rest


def test_every_benchmark_is_on_the_page_of_measurements():
    page = (BENCHMARKS.parent / "docs" / "performance.md").read_text("utf-8")

    assert [name for name in SCRIPTS if f"benchmarks/{name}" not in page] == []
