"""Choose and make the engine that runs a Keras model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from permafrost.engines.options import ENGINES, KERAS_BATCH
from permafrost.errors import EngineError, OptionError

if TYPE_CHECKING:
    import keras

    from permafrost.engines.conversion import ConvertedModel
    from permafrost.engines.engine import Engine


def make_engine(
    name: str,
    model: keras.Model,
    *,
    batch_size: int | None = None,
    precision: str = "float32",
    converted: ConvertedModel | None = None,
) -> Engine:
    """Make an engine.

    `auto` measures nothing: it is Keras if Keras sees a GPU; else OpenVINO if it is installed and this CPU computes in
    `precision`; else Keras.

    Args:
        name: one of `ENGINES`.
        model: from (n, h, w, 3) float32, 0 to 255, to one or several outputs.
        batch_size: images per batch; the engine's default if None.
        precision: the precision in which the model computes: `float32` or `bfloat16`.
        converted: the model in OpenVINO's format, if it is stored.

    Raises:
        OptionError: the name is unknown.
        EngineError: an engine that was requested by name is not available.
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
