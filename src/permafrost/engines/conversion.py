"""Convert a Keras model to OpenVINO's format once, and store it beside the features.

OpenVINO reads TensorFlow's graphs, so the conversion runs on TensorFlow; if Keras uses another backend, in a process of
its own. The stored file is a zip of OpenVINO's two files (the graph as XML, the weights as raw bytes) and a record of
what they were made from, so that a stale file is never used; its CRCs detect damage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from permafrost.atomic import replacing
from permafrost.errors import EngineError

if TYPE_CHECKING:
    import keras

FORMAT: Final = "permafrost openvino 1"
"""Change it when the conversion changes: stored models are then converted again."""

GRAPH, WEIGHTS, ABOUT = "model.xml", "model.bin", "about.json"

_LOADING: Final = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ConvertedModel:
    """A model in OpenVINO's format, from (n, h, w, 3) uint8 to one or several outputs.

    Attributes:
        graph: OpenVINO's intermediate representation, XML.
        weights: the bytes of its float32 weights.
    """

    graph: bytes
    weights: bytes


@dataclasses.dataclass(frozen=True)
class ConversionFile:
    """The file of a converted model.

    Attributes:
        folder: folder of the store of its first trunk.
        trunks: digests of its trunks, in the order of its outputs.
    """

    folder: Path
    trunks: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Path of the file: `trunk.openvino`, or a distinct name for a model of several trunks."""
        several = hashlib.sha256("\n".join(self.trunks).encode()).hexdigest()[:12]
        return self.folder / (f"trunk-{several}.openvino" if len(self.trunks) > 1 else "trunk.openvino")

    def load(self, *, max_bytes: int) -> ConvertedModel | None:
        """Return the stored model; None if it is absent, damaged, stale, or larger than `max_bytes`."""
        try:
            if self.path.stat().st_size > max_bytes:
                return None
            with zipfile.ZipFile(self.path) as file:
                # Nothing is compressed, so no member is larger than the file.
                if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
                    return None
                if json.loads(file.read(ABOUT)) != self._about():
                    return None
                return ConvertedModel(file.read(GRAPH), file.read(WEIGHTS))
        except Exception:
            # The file is absent or damaged (zipfile raises many kinds of errors), or OpenVINO is not installed. The
            # model is converted again.
            return None

    def save(self, converted: ConvertedModel) -> None:
        """Write a converted model atomically.

        Raises:
            WriteError: the file cannot be written.
        """
        with replacing(self.path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
            file.writestr(ABOUT, json.dumps(self._about()))
            file.writestr(GRAPH, converted.graph)
            file.writestr(WEIGHTS, converted.weights)

    def _about(self) -> dict[str, Any]:
        return {"format": FORMAT, "openvino": str(load_openvino().__version__), "trunks": list(self.trunks)}


def convert(model: keras.Model) -> ConvertedModel:
    """Convert a model.

    Args:
        model: from (n, h, w, 3) float32, 0 to 255, to one or several outputs.

    Raises:
        EngineError: OpenVINO or TensorFlow is not installed, or the model has an operation that OpenVINO lacks.
    """
    import keras

    load_openvino()
    with tempfile.TemporaryDirectory(prefix="permafrost-") as folder:
        try:
            if keras.backend.backend() == "tensorflow":
                _convert_here(model, folder)
            else:
                _convert_elsewhere(model, folder)
        except EngineError:
            raise
        except Exception as error:
            # OpenVINO raises RuntimeError, its own OpConversionFailure, TypeError, ImportError.
            raise EngineError(f"OpenVINO cannot run {model.name}: {error}", do="use --engine keras") from error
        return ConvertedModel(*(Path(folder, name).read_bytes() for name in (GRAPH, WEIGHTS)))


def output_names(count: int) -> list[str]:
    """Return names for a model's outputs, in the order of the Keras model: OpenVINO orders outputs differently."""
    return [f"features_{i}" for i in range(count)]


def load_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, and make it ready for several threads.

    Otherwise each import would report to its makers over the network. Its bindings look up NumPy at first use, under a
    lock for which they release the GIL: two threads that got there together would deadlock (see pull request 4877 of
    pybind11), so this uses them once.

    Raises:
        EngineError: OpenVINO is not installed.
    """
    try:
        with _LOADING:
            with _without("openvino_telemetry"):
                import openvino
            openvino.Type.u8.to_dtype()
    except ImportError as error:
        raise EngineError(
            f"OpenVINO cannot be loaded: {error}", do="pip install openvino, or use --engine keras"
        ) from error
    return openvino  # type: ignore[no-any-return]


@functools.cache
def openvino_core() -> Any:
    """Return the process's one `openvino.Core`, which lives as long as the process.

    On a CPU with AMX, OpenVINO's plugin gives the thread that first uses it an alternate signal stack, and unmaps it
    with the last core, whatever thread that is on. The next signal, such as Ctrl-C, then ends the process with a
    segmentation fault. So the core is never destroyed.

    Raises:
        EngineError: OpenVINO is not installed.
    """
    return load_openvino().Core()


def _convert_here(model: keras.Model, folder: str) -> None:
    """Trace the model with its weights as constants, which OpenVINO reads four times as fast as variables."""
    import keras
    import tensorflow

    trainable, other = (
        [keras.ops.convert_to_numpy(variable) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )

    def run(pixels: Any) -> list[Any]:
        weights = [[tensorflow.constant(array) for array in arrays] for arrays in (trainable, other)]
        outputs, _ = model.stateless_call(*weights, tensorflow.cast(pixels, "float32"), training=False)
        outputs = keras.tree.flatten(outputs)
        names = output_names(len(outputs))
        return [tensorflow.identity(output, name) for output, name in zip(outputs, names, strict=True)]

    pixels = tensorflow.TensorSpec((None, *model.inputs[0].shape[1:]), tensorflow.uint8)
    traced = tensorflow.function(run, autograph=False).get_concrete_function(pixels)
    path = Path(folder, "traced.pb")
    path.write_bytes(traced.graph.as_graph_def().SerializeToString())
    load_openvino().save_model(openvino_core().read_model(path), os.path.join(folder, GRAPH), compress_to_fp16=False)


def _convert_elsewhere(model: keras.Model, folder: str) -> None:
    """Convert in another process, on TensorFlow: Keras has another backend in this one."""
    path = os.path.join(folder, "model.keras")
    model.save(path)
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", __name__, path, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise EngineError(f"OpenVINO cannot run {model.name}: {lines[-1]}", do="use --engine keras")


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Make the import of a module fail in the block, as if it were not installed."""
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


if __name__ == "__main__":
    from permafrost.trunk.bases import load_model_file

    _convert_here(load_model_file(sys.argv[1]), sys.argv[2])
