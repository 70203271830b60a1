"""No public function and no command leaves a lasting change to the process: libraries, signals, files, threads."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import pytest
import threadpoolctl
from PIL import Image
from sklearn.linear_model import LogisticRegression

import permafrost as pf
from permafrost import cli
from permafrost.errors import PermafrostError
from permafrost.heads.cross_validation import one_blas_thread
from permafrost.keras_state import keras_defaults
from permafrost.process_state import Overlapping, ignored_warnings, standard_output_to_error
from permafrost.store.export import export_features
from permafrost.store.pruning import prune
from permafrost.store.verification import verify
from process_snapshot import assert_unchanged, snapshot
from samples import texture

pytest_plugins = ["upper"]
pytestmark = [
    pytest.mark.usefixtures("light"),
    # TensorFlow warns that its data pipeline is compiled even in eager mode.
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]

QUICK: dict[str, dict[str, Any]] = {
    "dense": {"hidden": 8, "epochs": 2, "dropout": 0.2},
    "mlp": {"hidden": 8},
    "logistic": {},
    "svm": {},
}


@pytest.fixture(autouse=True)
def loaded() -> None:
    """Load what Pillow loads when it opens a file of a rare format."""
    Image.init()


Job = Callable[[Path], object]


@pytest.fixture
def jobs(split_photos, tiny_base, run, features, own_features, own_run) -> dict[str, Job]:
    """The public functions and the commands, each with a request that succeeds."""
    base, data, set_file = str(tiny_base), str(split_photos), str(own_features.path)
    images = sorted(map(str, split_photos.rglob("*.png")))[:3]
    quick = {"epochs": 1, "batch_size": 9, "progress": False}

    def command(*arguments: object) -> None:
        assert cli.run([*map(str, arguments)]) == 0

    def fit(head: Any) -> Job:
        options = QUICK.get(head, {}) if isinstance(head, str) else {}
        return lambda out: pf.fit_head(features, head, out=out / "run", progress=False, **options)

    def take(engine: str) -> Job:
        return lambda out: pf.extract(data, base=base, out=out / "set.h5", engine=engine, progress=False, views=2)

    return {
        "extract with Keras": take("keras"),
        "extract": take("auto"),
        "extract from the table": lambda out: pf.extract(
            data, base="mobilenet:alpha=0.25", weights="none", image_size=32, out=out / "set.h5", progress=False
        ),
        **{f"fit_head {head}": fit(head) for head in ("dense", "logistic", "svm", "mlp")},
        "fit_head of an estimator": fit(LogisticRegression(max_iter=1)),
        "finetune": lambda out: pf.finetune(run, "joined", out=out / "tuned", **quick),
        "evaluate": lambda _: pf.evaluate(str(run.folder), data),
        "predict": lambda _: pf.predict(run, [*images, texture("dots", 0, (40, 30))]),
        "open_run": lambda _: pf.open_run(own_run).model,
        "open_features": lambda _: list(pf.open_features(set_file).batches(batch_size=4)),
        "FeatureExtractor": lambda out: pf.FeatureExtractor(base=base, store=out).fit_transform(images),
        "verify": lambda _: verify(own_features.path.parent),
        "prune": lambda _: prune(own_features.path.parent, confirm=lambda _: True),
        "export": lambda out: export_features(own_features, out / "set.npz"),
        "bin/extract": lambda out: command("extract", data, "--base", base, "--out", out / "set.h5"),
        "bin/fit-head": lambda out: command("fit-head", set_file, "--head", "ridge", "--out", out / "run"),
        "bin/finetune": lambda out: command("finetune", run.folder, "--epochs", 1, "--out", out / "tuned"),
        "bin/evaluate": lambda _: command("evaluate", run.folder, data),
        "bin/predict": lambda _: command("predict", run.folder, data),
        "bin/features": lambda _: command("features", "verify", own_features.path.parent),
    }


NAMES = [
    "extract with Keras",
    "extract",
    "extract from the table",
    "fit_head dense",
    "fit_head logistic",
    "fit_head svm",
    "fit_head mlp",
    "fit_head of an estimator",
    "finetune",
    "evaluate",
    "predict",
    "open_run",
    "open_features",
    "FeatureExtractor",
    "verify",
    "prune",
    "export",
    "bin/extract",
    "bin/fit-head",
    "bin/finetune",
    "bin/evaluate",
    "bin/predict",
    "bin/features",
]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_the_process_is_changed_for_good(name, jobs, tmp_path):
    before = snapshot()

    assert_unchanged(before, lambda: jobs[name](tmp_path))


@pytest.fixture
def refused(run, features, own_run, split_photos, tiny_base, tmp_path) -> dict[str, Job]:
    """Requests that fail, some of them late."""
    bad = tmp_path / "bad.keras"
    bad.write_bytes(b"not a model")
    (own_run / "model.keras").write_bytes(b"not a model")
    broken = tmp_path / "broken"
    for kind in ("a", "b"):
        (broken / kind).mkdir(parents=True)
        (broken / kind / "1.png").write_bytes(b"not an image")
    base = {"base": str(tiny_base), "progress": False}

    return {
        "extract": lambda out: pf.extract(broken, out=out / "set.h5", **base),
        "extract, at the first bad image": lambda out: pf.extract(broken, out=out / "set.h5", on_bad="fail", **base),
        "extract of no base": lambda out: pf.extract(split_photos, base=str(bad), out=out / "set.h5"),
        "fit_head": lambda out: pf.fit_head(features, "conv", out=out / "run", progress=False),
        "finetune": lambda out: pf.finetune(run, "no such layer", out=out / "tuned", progress=False),
        "evaluate": lambda _: pf.evaluate(str(own_run), split_photos),
        "predict": lambda _: pf.predict(str(bad), split_photos / "test"),
        "open_features": lambda _: pf.open_features(bad),
        "FeatureExtractor": lambda out: pf.FeatureExtractor(base=str(tiny_base), store=out).fit_transform([str(bad)]),
        "verify": lambda out: verify(out / "nothing"),
    }


REFUSED = [
    "extract",
    "extract, at the first bad image",
    "extract of no base",
    "fit_head",
    "finetune",
    "evaluate",
    "predict",
    "open_features",
    "FeatureExtractor",
    "verify",
]


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_in_the_process_is_changed_by_a_request_that_fails(name, refused, tmp_path):
    before = snapshot()

    with pytest.raises(PermafrostError):
        assert_unchanged(before, lambda: refused[name](tmp_path / "out"))


def test_a_command_that_fails_changes_nothing_either(tmp_path, capsys):
    before = snapshot()

    assert_unchanged(before, lambda: cli.run(["extract", str(tmp_path / "nothing")]))
    assert_unchanged(before, lambda: cli.run(["extrct"]))


def in_another_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1, "of the program") as thread:
        return thread.submit(work).result()


@pytest.mark.parametrize("name", ["extract", "fit_head dense", "finetune", "evaluate", "predict", "FeatureExtractor"])
def test_every_step_works_outside_the_main_thread(name, jobs, tmp_path):
    assert in_another_thread(lambda: jobs[name](tmp_path)) is not None


def test_every_step_works_in_an_event_loop(jobs, tmp_path):
    async def cell() -> None:
        jobs["extract"](tmp_path)  # As a cell of a notebook does.
        await asyncio.to_thread(jobs["predict"], tmp_path)
        await asyncio.get_running_loop().run_in_executor(None, jobs["evaluate"], tmp_path)

    asyncio.run(cell())


def test_a_handler_of_ctrl_c_that_the_program_has_set_is_called_and_stays(jobs, tmp_path):
    pressed = []

    def handler(number: int, frame: Any) -> None:
        pressed.append(number)

    before = signal.signal(signal.SIGINT, handler)
    try:
        pressing = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
        pressing.start()
        jobs["extract"](tmp_path)
        jobs["bin/extract"](tmp_path / "second")
        pressing.join()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)

    assert pressed == [signal.SIGINT]


def test_warnings_are_ignored_while_any_block_is_left_and_the_filters_come_back_once():
    before, entered, leave = list(warnings.filters), threading.Event(), threading.Event()

    def other() -> None:
        with ignored_warnings(message="theirs"), standard_output_to_error:
            entered.set()
            leave.wait(10)

    with ThreadPoolExecutor(1) as thread:
        with ignored_warnings(category=DeprecationWarning), standard_output_to_error:
            done = thread.submit(other)
            entered.wait(10)
            warnings.warn("ours", DeprecationWarning, stacklevel=1)
        assert warnings.filters != before
        leave.set()
        done.result()

    assert warnings.filters == before
    assert sys.stdout is not sys.stderr


def test_matrix_products_have_their_threads_again_when_the_last_block_ends_in_another_thread_than_the_first():
    def pools() -> list[int]:
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    before, entered, leave = pools(), threading.Event(), threading.Event()

    def other() -> list[int]:
        with one_blas_thread():
            entered.set()
            leave.wait(10)
            return pools()

    with ThreadPoolExecutor(1) as thread:
        with one_blas_thread():
            done = thread.submit(other)
            entered.wait(10)
        leave.set()
        assert set(done.result()) == {1}

    assert pools() == before


def test_a_context_that_overlaps_is_entered_once_and_left_once_also_after_errors():
    calls = []

    class Recorded:
        def __enter__(self) -> None:
            calls.append("enter")

        def __exit__(self, *_: object) -> None:
            calls.append("leave")

    shared = Overlapping(Recorded)
    for _ in range(2):
        with pytest.raises(ValueError), shared, shared:
            raise ValueError

    assert calls == ["enter", "leave"] * 2


def test_a_context_that_cannot_be_entered_is_not_counted():
    calls = []

    def make() -> Any:
        calls.append("make")
        if len(calls) == 1:
            raise OSError
        return contextlib.nullcontext()

    shared = Overlapping(make)
    with pytest.raises(OSError), shared:
        pass
    with shared:
        pass

    assert calls == ["make", "make"]


def test_numbers_that_another_thread_draws_meanwhile_are_not_drawn_again():
    random.seed(0)
    with keras_defaults():
        keras.layers.Dense(1)
        drawn = in_another_thread(random.random)

    assert random.random() != drawn
