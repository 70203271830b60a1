"""What runs a trunk on batches. An engine is made from a Keras model, and called on pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from permafrost.engines.engine import Engine
from permafrost.engines.options import ENGINES, KERAS_BATCH
from permafrost.errors import EngineError, OptionError

if TYPE_CHECKING:
    import keras

    from permafrost.engines.conversion import ConvertedModel

__all__ = ["Engine", "make_engine"]


def make_engine(
    name: str,
    model: keras.Model,
    *,
    batch_size: int | None = None,
    precision: str = "float32",
    converted: ConvertedModel | None = None,
) -> Engine:
    """The engine called `name`, for `model`.

    `auto` measures nothing: it is Keras where Keras sees a GPU, OpenVINO where that is installed and this processor
    computes in `precision`, and Keras otherwise.

    Args:
        name: one of `ENGINES`.
        model: from (n, h, w, 3) float32, 0 to 255, to one or several outputs.
        batch_size: images in a batch; what suits the engine if None.
        precision: what the model computes in: `float32` or `bfloat16`.
        converted: the model in OpenVINO's form, where it has been kept.

    Raises:
        OptionError: there is no such engine.
        EngineError: it was asked for by name and cannot be had here.
    """
    if name not in ENGINES:
        raise OptionError("unknown engine", expected=" or ".join(ENGINES), found=name)
    from permafrost.engines.device import sees_gpu
    from permafrost.engines.keras_engine import KerasEngine

    why, keras_batch = "Keras sees a GPU", batch_size or KERAS_BATCH
    if name == "openvino" or (name == "auto" and not sees_gpu()):
        from permafrost.engines.checked import CheckedEngine
        from permafrost.engines.openvino_engine import OpenVINOEngine

        try:
            engine = OpenVINOEngine(model, batch_size=batch_size, precision=precision, converted=converted)
            fall_back = keras_batch if name == "auto" else None
            return CheckedEngine(engine, model, precision=precision, fall_back=fall_back)
        except EngineError as error:
            if name == "openvino":
                raise
            why = str(error)
    return KerasEngine(model, batch_size=keras_batch, why="" if name == "keras" else why)
