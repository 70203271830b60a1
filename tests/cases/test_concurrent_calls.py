"""Calls that overlap in threads give the answers of calls one after the other, and leave nothing changed.

Public bug reports: ludwig-ai/ludwig#286, amaiya/ktrain#182.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import permafrost as pf
from process_snapshot import assert_unchanged, snapshot
from samples import write_photos

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Start all calls at the same moment, each in its own thread, and return their results."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait(10)
        return call()

    results: list[Any] = []
    with ThreadPoolExecutor(len(calls)) as threads:
        results += [future.result() for future in [threads.submit(run, call) for call in calls]]
    return results


def unchanged(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls at once, and check that nothing in the process is changed for good."""
    results: list[Any] = []
    assert_unchanged(snapshot(), lambda: results.extend(at_once(*calls)))
    return results


@pytest.fixture
def images(split_photos) -> list[str]:
    return sorted(map(str, split_photos.rglob("*.*g")))


def test_two_predictions_at_once_are_those_of_one_after_the_other(run, images):
    halves = images[::2], images[1::2]

    expected = [pf.predict(str(run.folder), half) for half in halves]

    assert unchanged(*(lambda half=half: pf.predict(str(run.folder), half) for half in halves)) == expected


def test_one_open_run_answers_several_threads(run, images):
    opened = pf.open_run(run.folder)

    expected = pf.predict(run, images)

    assert unchanged(*[lambda: pf.predict(opened, images)] * 4) == [expected] * 4


@pytest.mark.parametrize("engine", ["keras", "auto"])
def test_two_extractions_at_once_into_one_store_cache_what_each_would(engine, tiny_base, tmp_path):
    data = [write_photos(tmp_path / name, per_class=8, first=first) for name, first in (("a", 0), ("b", 4))]

    def take(folder: str, number: int) -> Any:
        options = {"base": str(tiny_base), "pool": "avg", "engine": engine, "progress": False}
        return pf.extract(data[number], out=tmp_path / folder / f"{number}.h5", **options)

    expected = [take("alone", number) for number in (0, 1)]
    found = unchanged(lambda: take("both", 0), lambda: take("both", 1))

    for left, right in zip(found, expected, strict=True):
        assert left.spec == right.spec
        assert np.allclose(left.arrays()[0], right.arrays()[0], rtol=0, atol=1e-5)


def test_heads_of_one_set_are_fitted_at_once_while_another_run_predicts(features, run, images, tmp_path):
    def fit(folder: str, head: str, **options: Any) -> Any:
        return pf.fit_head(features, head, out=tmp_path / folder / head, progress=False, **options).metrics

    quick = {"hidden": 8, "epochs": 2, "dropout": 0.2}
    expected = [fit("one", "dense", **quick), fit("one", "logistic"), fit("one", "svm"), pf.predict(run, images)]

    found = unchanged(
        lambda: fit("two", "dense", **quick),
        lambda: fit("two", "logistic"),
        lambda: fit("two", "svm"),
        lambda: pf.predict(str(run.folder), images),
    )

    assert found == expected


def test_two_runs_are_fine_tuned_and_evaluated_at_once(run, split_photos, tmp_path):
    def tune(folder: str, number: int) -> Any:
        options = {"epochs": 2, "batch_size": 9, "learning_rate": 2e-3, "seed": number, "progress": False}
        tuned = pf.finetune(run, "joined", out=tmp_path / folder / str(number), **options)
        return tuned.metrics, pf.evaluate(tuned, split_photos)["accuracy"]

    expected = [tune("one", number) for number in (0, 1)]

    assert unchanged(lambda: tune("two", 0), lambda: tune("two", 1)) == expected
