"""OpenVINO as an engine: it computes several batches at once, each on its own cores.

OpenVINO chooses the number of batches and their cores for throughput. On two cores it computes two batches, one per
core, so that no core waits for another while threads decode.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from permafrost.engines.conversion import ConvertedModel, convert, load_openvino, openvino_core, output_names
from permafrost.engines.engine import padded
from permafrost.engines.options import OPENVINO_BATCH
from permafrost.errors import EngineError

if TYPE_CHECKING:
    import keras

_HINTS: Final = {"float32": "f32", "bfloat16": "bf16"}
_CAPABILITIES: Final = {"float32": "FP32", "bfloat16": "BF16"}


class OpenVINOEngine:
    """Runs a model with OpenVINO on the CPU, in exactly the requested precision.

    Attributes:
        name: `openvino`.
        record: the name with the version of OpenVINO.
        batch_size: images per batch.
        streams: number of batches that are computed at once.
        converted: the model in OpenVINO's format, to be stored.
        why, difference: empty and None; `checked.CheckedEngine` sets them.

    Args:
        model: from (n, h, w, 3) float32, 0 to 255, to one or several outputs.
        batch_size: images per batch; `OPENVINO_BATCH` if None.
        precision: `float32` or `bfloat16`.
        converted: the model in OpenVINO's format, if it is stored; None converts it.

    Raises:
        EngineError: OpenVINO is not installed, lacks an operation of the model, or this CPU lacks the precision.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        batch_size: int | None = None,
        precision: str = "float32",
        converted: ConvertedModel | None = None,
    ) -> None:
        openvino = load_openvino()
        core = openvino_core()
        require_precision(core, precision)
        self.name, self.why, self.difference = "openvino", "", None
        self.record = f"openvino {openvino.__version__.split('-')[0]}"
        self.batch_size = batch_size or OPENVINO_BATCH
        self.converted = converted or convert(model)
        shape = (self.batch_size, *model.inputs[0].shape[1:])
        try:
            compiled = _compile(core, self.converted, shape, precision)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot run {model.name}: {error}", do="use --engine keras") from error
        self.streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._outputs = [f"{name}:0" for name in output_names(len(model.outputs))]
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features, as `Engine`. At most `streams` threads compute at once; the others wait."""
        batch = padded(pixels, self.batch_size)
        request = self._requests.get()
        try:
            request.infer({0: batch}, share_inputs=True)
            return [np.array(request.get_tensor(name).data[: len(pixels)], np.float32) for name in self._outputs]
        finally:
            self._requests.put(request)


def require_precision(core: Any, precision: str) -> None:
    """Refuse a precision that this CPU lacks, because OpenVINO would silently compute in another one.

    Raises:
        EngineError: the CPU lacks the precision.
    """
    known = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[precision] not in known:
        raise EngineError(
            f"this processor has no {precision} that OpenVINO could use",
            do="use --precision float32, which is faster here, or --engine keras",
        )


def _compile(core: Any, converted: ConvertedModel, shape: tuple[int, ...], precision: str) -> Any:
    graph = core.read_model(converted.graph, converted.weights)
    graph.reshape(list(shape))
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        # Threads that decode, and other programs, use the cores too: a pinned thread would wait for its core while
        # another core is free.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(graph, "CPU", settings)
