"""OpenVINO computes the features of Keras or is refused; a converted trunk is stored and never stale."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest

import samples
from permafrost import extract
from permafrost.engines import checked, conversion, device, keras_engine, openvino_engine
from permafrost.engines import selection as engines
from permafrost.engines.checked import CheckedEngine, largest_difference
from permafrost.engines.conversion import ConversionFile, ConvertedModel
from permafrost.engines.openvino_engine import OpenVINOEngine
from permafrost.engines.selection import make_engine
from permafrost.errors import EngineError
from permafrost.store.feature_set import FeatureSet
from samples import PX, tiny_model

PIXELS = np.random.default_rng(0).integers(0, 256, (10, PX, PX, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """The tiny base. Not to be changed."""
    return tiny_model()


@pytest.fixture(scope="module")
def engine(model) -> OpenVINOEngine:
    return OpenVINOEngine(model, batch_size=4)


@pytest.fixture(scope="module")
def expected(model) -> np.ndarray:
    """The features of all images as Keras computes them."""
    return model.predict(PIXELS.astype(np.float32), verbose=0)


@pytest.fixture
def take(tiny_base, tmp_path):
    """`extract` with the tiny base into the test's own folder."""

    def take(data, **options) -> FeatureSet:
        return extract(data, base=str(tiny_base), out=tmp_path / "features" / "set.h5", progress=False, **options)

    return take


def wrong_by(fraction: float, monkeypatch) -> None:
    """Make OpenVINO's features wrong by a fraction of the largest that is checked, from now on."""
    run = OpenVINOEngine.__call__

    def wrong(self, pixels):
        return [features + fraction * np.abs(features[: checked.IMAGES]).max() for features in run(self, pixels)]

    monkeypatch.setattr(OpenVINOEngine, "__call__", wrong)


def not_installed(monkeypatch) -> None:
    """Make OpenVINO look as if it were not installed, from now on."""
    monkeypatch.setitem(sys.modules, "openvino", None)


# What it computes


@pytest.mark.parametrize("count", [4, 1, 3])
def test_its_features_are_those_of_keras_however_full_the_batch(engine, expected, count):
    (features,) = engine(PIXELS[:count])

    assert features.dtype == np.float32
    assert features.shape == (count, 8, 8, 16)
    assert largest_difference(features, expected[:count]) <= 1e-5


def test_many_outputs_come_in_the_order_of_the_model(model):
    several = keras.Model(
        model.input, [keras.layers.Rescaling(0.0, offset=float(i))(model.output) for i in reversed(range(12))]
    )

    outputs = OpenVINOEngine(several, batch_size=2)(PIXELS[:2])

    assert [float(output.mean()) for output in outputs] == list(reversed(range(12)))


def test_threads_that_call_it_at_once_each_get_their_own_features(engine, expected):
    with ThreadPoolExecutor(4) as threads:
        features = list(threads.map(lambda i: engine(PIXELS[i : i + 2])[0], [0, 2, 4, 6, 8] * 8))

    for i, part in zip([0, 2, 4, 6, 8] * 8, features, strict=True):
        assert largest_difference(part, expected[i : i + 2]) <= 1e-5


FIRST_BATCHES = """
import sys, threading

import numpy as np

from permafrost.engines.conversion import load_openvino

openvino = load_openvino()
from openvino import opset13

pixels = opset13.parameter([2, 3], np.uint8)
model = openvino.Model([opset13.convert(pixels, "f32")], [pixels])
compiled = openvino.Core().compile_model(model, "CPU")
together, sums = threading.Barrier(4), []


def compute(request):
    together.wait()
    request.infer({0: np.ones((2, 3), np.uint8)}, share_inputs=True)
    sums.append(int(request.get_output_tensor(0).data.sum()))


def be_busy():
    while True:
        pass


sys.setswitchinterval(1e-6)  # Threads interrupt each other wherever they can.
threading.Thread(target=be_busy, daemon=True).start()
threads = [threading.Thread(target=compute, args=(compiled.create_infer_request(),)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sums)
"""


@pytest.mark.parametrize("process", ["one", "another", "a third"])  # Two in three hung before this was prevented.
def test_threads_may_compute_the_first_batches_of_a_process_at_once(process):
    done = subprocess.run([sys.executable, "-c", FIRST_BATCHES], stdout=subprocess.PIPE, text=True, timeout=60)

    assert (done.returncode, done.stdout.strip()) == (0, "[6, 6, 6, 6]")


INTERRUPTED = """
import gc, signal, threading

import numpy as np
import samples
from permafrost.engines.openvino_engine import OpenVINOEngine

engines = [OpenVINOEngine(samples.tiny_model(), batch_size=1)]
engines[0](np.zeros((1, samples.PX, samples.PX, 3), np.uint8))
thread = threading.Thread(target=engines.clear)
thread.start()
thread.join()
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_the_last_engine_is_gone_is_a_keyboard_interrupt():
    # On processors with AMX it was a segmentation fault.
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        cwd=Path(samples.__file__).parent,
    )

    assert (done.returncode, done.stdout.strip()) == (0, "interrupted")


def test_a_precision_that_the_processor_lacks_is_refused_and_not_replaced(model, monkeypatch):
    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino_engine, "openvino_core", Core)

    with pytest.raises(EngineError, match=r"this processor has no bfloat16 .* Use --precision float32"):
        make_engine("openvino", model, precision="bfloat16")
    engine = make_engine("auto", model, precision="bfloat16")
    assert engine.name.startswith("keras/")
    assert "no bfloat16" in engine.why


def test_loading_it_loads_no_telemetry():
    command = (
        "from permafrost.engines.conversion import load_openvino; import sys; load_openvino();"
        "print(sorted(name for name in sys.modules if name.startswith('openvino_telemetry')))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


# Which engine it is, and that it agrees with Keras


def test_auto_is_openvino_if_keras_sees_no_gpu(model, monkeypatch):
    assert make_engine("auto", model).name == "openvino"

    monkeypatch.setattr(device, "sees_gpu", lambda: True)

    engine = make_engine("auto", model)
    assert (engine.name, engine.why) == (f"keras/{keras.backend.backend()}", "Keras sees a GPU")


def test_on_a_gpu_one_batch_is_copied_while_another_is_computed(model, expected, monkeypatch):
    monkeypatch.setattr(keras_engine, "sees_gpu", lambda: True)
    engine = make_engine("keras", model, batch_size=5)

    with ThreadPoolExecutor(engine.streams) as threads:
        first, second = threads.map(lambda pixels: engine(pixels)[0], [PIXELS[:5], PIXELS[5:]])

    assert engine.streams == 2
    assert largest_difference(np.concatenate([first, second]), expected) <= 1e-6


def test_without_openvino_auto_is_keras_with_a_reason_and_a_request_for_it_is_an_error(model, monkeypatch):
    not_installed(monkeypatch)

    engine = make_engine("auto", model)

    assert engine.name.startswith("keras/")
    assert "OpenVINO cannot be loaded" in engine.why
    with pytest.raises(EngineError, match=r"OpenVINO cannot be loaded: .*Pip install openvino, or use --engine keras"):
        make_engine("openvino", model)


def test_a_model_that_it_cannot_convert_is_run_by_keras(model, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(conversion.load_openvino(), "save_model", refuse)
    monkeypatch.setattr("permafrost.engines.openvino_engine.convert", conversion.convert)

    assert "no such operation" in make_engine("auto", model).why
    with pytest.raises(EngineError, match="OpenVINO cannot run tiny: no such operation"):
        make_engine("openvino", model)


def test_the_first_batch_is_compared_with_keras_and_the_difference_is_recorded(take, photos):
    features = take(photos, engine="openvino")

    assert features.summary["engine"] == "openvino"
    assert 0 <= features.summary["engine_difference"] <= 1e-6
    record = shard_engine(features)
    assert re.fullmatch(r"openvino 20[0-9.]+, within 1e-0[67] of Keras", record)


def shard_engine(features: FeatureSet) -> str:
    """Return the engine that a set's first shard records."""
    import h5py

    with h5py.File(features.store.folder / features.store.shard_names()[0]) as file:
        return file.attrs["engine"].decode()


def test_features_that_differ_from_keras_are_refused_before_any_is_committed(take, photos, monkeypatch, tmp_path):
    wrong_by(2e-4, monkeypatch)

    with pytest.raises(EngineError, match=r"features of openvino are not those of Keras; .* 1e-04 .*, found 2\.0e-04"):
        take(photos, engine="openvino")
    assert not list(tmp_path.rglob("*.h5"))


def test_auto_falls_back_to_keras_with_a_reason_if_features_differ(take, photos, monkeypatch):
    wrong_by(2e-4, monkeypatch)

    features = take(photos)

    assert features.summary["engine"] == f"keras/{keras.backend.backend()}"
    assert "not those of Keras" in features.summary["engine_why"]
    assert not (features.store.folder / "trunk.openvino").exists()
    monkeypatch.undo()
    assert largest_difference(features.arrays()[0], take(photos, dtype="float16").arrays()[0]) <= 1e-3


def test_a_difference_within_the_tolerance_is_accepted(take, photos, monkeypatch):
    wrong_by(5e-5, monkeypatch)

    assert take(photos).summary["engine_difference"] == pytest.approx(5e-5, rel=0.05)


def test_the_largest_difference_is_relative_to_the_largest_feature():
    expected = np.array([[0.0, -4.0], [2.0, 1.0]], np.float32)

    assert largest_difference(expected, expected) == 0
    assert largest_difference(expected + np.array([0, 0.5]), expected) == 0.125
    assert largest_difference(np.full((2, 2), np.nan), expected) == float("inf")
    assert largest_difference(np.ones(2), np.zeros(2)) == float("inf")


def test_a_feature_that_is_not_finite_is_not_the_engines_fault():
    expected = np.array([1.0, np.nan])

    assert largest_difference(np.array([1.0, np.inf]), expected) == 0


def test_batches_computed_during_a_failed_check_are_computed_again(model, engine, expected, monkeypatch):
    wrong_by(2e-4, monkeypatch)
    checking = threading.Event()
    compute_once = checked.compute_once

    def slow(*arguments):
        checking.set()
        time.sleep(0.2)
        return compute_once(*arguments)

    monkeypatch.setattr(checked, "compute_once", slow)
    whole = CheckedEngine(engine, model, precision="float32", fall_back=32)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(whole, PIXELS[:4])
        checking.wait()
        second = threads.submit(whole, PIXELS[4:8])
        features = [first.result()[0], second.result()[0]]

    assert whole.name.startswith("keras/")
    assert largest_difference(np.concatenate(features), expected[:8]) <= 1e-6


def test_keras_uses_its_own_batch_size_after_taking_over(model, engine, monkeypatch):
    wrong_by(2e-4, monkeypatch)
    sizes = []
    predict = type(model).predict_on_batch
    monkeypatch.setattr(type(model), "predict_on_batch", lambda self, x: (sizes.append(len(x)), predict(self, x))[1])
    whole = CheckedEngine(engine, model, precision="float32", fall_back=32)

    assert whole.batch_size < 32
    assert len(whole(PIXELS[:4])[0]) == 4
    assert (whole.batch_size, set(sizes)) == (32, {32})


def test_no_features_are_returned_before_the_first_batch_has_been_checked(model, engine, monkeypatch):
    def refuse(*_):
        raise EngineError("not yet")

    monkeypatch.setattr(checked, "compute_once", refuse)
    whole = CheckedEngine(engine, model, precision="float32", fall_back=None)

    for _ in range(2):
        with pytest.raises(EngineError, match="not yet"):
            whole(PIXELS[:2])


# The stored model


def test_a_trunk_is_converted_once_and_then_read(take, photos, own_photos, monkeypatch):
    take(photos)
    for path in own_photos.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"\0")  # Other images to compute, as their bytes are others.

    monkeypatch.setattr("permafrost.engines.openvino_engine.convert", lambda _: pytest.fail("converted again"))

    assert take(own_photos).summary["computed"] > 0


def test_several_trunks_in_one_model_are_stored_under_a_name_of_their_own(take, photos):
    stem, joined = take(photos, cut=["stem", "joined"])

    names = [path.name for features in (stem, joined) for path in features.store.folder.glob("*.openvino")]
    assert len(names) == 1 and names[0] != "trunk.openvino"


def test_a_stored_model_is_read_back_byte_for_byte(tmp_path):
    place, whole = ConversionFile(tmp_path, ("a",)), ConvertedModel(b"<graph/>", bytes(range(256)))

    assert place.load(max_bytes=10**6) is None
    place.save(whole)

    assert place.load(max_bytes=10**6) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["trunk.openvino"]


def test_what_is_stale_damaged_or_of_other_trunks_is_not_used(tmp_path, monkeypatch):
    place, whole = ConversionFile(tmp_path, ("a",)), ConvertedModel(b"<graph/>", bytes(range(256)))
    place.save(whole)
    data = place.path.read_bytes()
    at = data.index(bytes(range(256)))

    assert ConversionFile(tmp_path, ("b",)).load(max_bytes=10**6) is None
    for damaged in (data[:-30], data[:at] + b"?" + data[at + 1 :], b"", b"rubbish", data[: len(data) // 2]):
        place.path.write_bytes(damaged)
        assert place.load(max_bytes=10**6) is None
    place.save(whole)
    monkeypatch.setattr(conversion, "FORMAT", "another")
    assert place.load(max_bytes=10**6) is None


def test_what_is_too_large_or_compressed_is_not_read(tmp_path):
    place, whole = ConversionFile(tmp_path, ("a",)), ConvertedModel(b"<graph/>", bytes(1000))
    place.save(whole)
    size = place.path.stat().st_size
    with zipfile.ZipFile(place.path) as file:
        members = {name: file.read(name) for name in file.namelist()}

    assert place.load(max_bytes=size) == whole
    assert place.load(max_bytes=size - 1) is None
    with zipfile.ZipFile(place.path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    assert place.load(max_bytes=size) is None


def test_a_damaged_conversion_is_made_again_and_replaced(take, photos, own_photos):
    stored = take(photos).store.folder / "trunk.openvino"
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-100])
    changed = own_photos / "dots" / "dots-000.png"
    changed.write_bytes(changed.read_bytes() + b"\0")

    assert take(own_photos).summary["computed"] == 1

    assert ConversionFile(stored.parent, (take(photos).spec.digest,)).load(max_bytes=10**6) is not None


def test_a_run_that_computes_nothing_needs_no_engine(take, photos, monkeypatch):
    take(photos)
    monkeypatch.setattr(engines, "make_engine", lambda *_, **__: pytest.fail("an engine was made"))

    summary = take(photos).summary

    assert (summary["computed"], summary["engine"]) == (0, None)


@pytest.mark.slow
def test_on_another_backend_the_trunk_is_converted_in_another_process(tmp_path, photos, tiny_base):
    pytest.importorskip("jax", reason="no jax")
    out = tmp_path / "features" / "set.h5"
    command = [sys.executable, "-m", "permafrost", "extract", str(photos), "--base", str(tiny_base), "--out", str(out)]
    environment = os.environ | {"KERAS_BACKEND": "jax"}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "by openvino" in done.stdout
    assert Path(out).exists()
