"""Progress bars are drawn in notebooks and on terminals, whatever takes the time."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import tqdm.auto

import permafrost as pf
from permafrost.progress import progress_bar

pytest_plugins = ["upper"]
# TensorFlow warns that its own data pipeline is compiled all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")


@pytest.fixture
def in_notebook(monkeypatch) -> None:
    """Make this process look like the kernel of a notebook."""
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(tqdm.auto, "tqdm", tqdm.tqdm)  # Widgets need a front end.


def test_no_bar_is_drawn_to_a_file(capsys):
    with progress_bar(total=3, unit=" images") as bar:
        bar.update()

    assert capsys.readouterr().err == ""


def test_a_bar_starts_no_thread_that_outlives_it(monkeypatch):
    monkeypatch.setattr(tqdm.tqdm, "monitor", None)
    before = threading.enumerate()

    with progress_bar(total=3, unit=" images") as bar:
        bar.update()

    assert threading.enumerate() == before


@pytest.mark.usefixtures("in_notebook")
def test_a_bar_is_drawn_in_a_notebook_unless_it_is_switched_off(capsys):
    for shown in (True, False):
        with progress_bar(total=3, unit=" images", shown=shown) as bar:
            bar.update(3)

        assert (" images" in capsys.readouterr().err) == shown


@pytest.mark.usefixtures("in_notebook", "light")
@pytest.mark.parametrize(
    ("settings", "unit"),
    [({"head": "linear", "epochs": 2}, "epochs"), ({"head": "auto", "candidates": ["lda", "nb"]}, "heads")],
    ids=["training", "comparing heads"],
)
def test_fitting_draws_a_bar_in_a_notebook(features, tmp_path, capsys, settings, unit):
    run = pf.fit_head(features, out=tmp_path / "run", **settings)

    assert np.isfinite(run.metrics["test"]["accuracy"])
    assert unit in capsys.readouterr().err
