"""Every benchmark says in its docstring what it shows and how to run it."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
HELPERS = {"common.py", "memory.py"}
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py") if path.name not in HELPERS)


def test_the_page_of_results_names_only_existing_benchmarks():
    named = set(re.findall(r"benchmarks/(\w+\.py)", (BENCHMARKS / "results.md").read_text("utf-8")))

    assert len(named) >= 7
    assert named <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_docstring_of_a_benchmark_has_its_claim_and_its_command(name):
    docstring = ast.get_docstring(ast.parse((BENCHMARKS / name).read_bytes())) or ""

    claim, _, rest = docstring.partition("\n")
    assert re.fullmatch(r"(\([a-j]\) )?[A-Z].+\.", claim)
    assert re.search(rf"^    (\.venv/bin/)?python benchmarks/{name}", rest, re.MULTILINE)


@pytest.mark.parametrize(
    "path", sorted([*BENCHMARKS.glob("*.py"), *(ROOT / "tools").glob("*.py")]), ids=lambda path: path.name
)
def test_everything_that_a_script_imports_from_the_package_exists(path):
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("permafrost"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
