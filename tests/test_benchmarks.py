"""Each benchmark that the page of measurements names opens with its claim and the command that tries it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMED = sorted(set(re.findall(r"benchmarks/(\w+\.py)", (ROOT / "docs" / "performance.md").read_text("utf-8"))))


def test_all_claims_are_on_the_page():
    assert len(NAMED) >= 7


@pytest.mark.parametrize("name", NAMED)
def test_a_benchmark_opens_with_its_claim_and_its_command(name):
    docstring = ast.get_docstring(ast.parse((ROOT / "benchmarks" / name).read_bytes())) or ""

    claim, _, rest = docstring.partition("\n")
    assert re.fullmatch(r"\([a-g]\) .+\.", claim)
    assert f"\n    python benchmarks/{name}" in rest
