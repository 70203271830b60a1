"""Names and batch sizes of the engines. Loads nothing heavy."""

from __future__ import annotations

from typing import Final

ENGINES: Final = ("auto", "keras", "openvino")

KERAS_BATCH: Final = 32
"""Images per batch with Keras."""

OPENVINO_BATCH: Final = 8
"""Images per batch with OpenVINO: the data between two layers of common bases then nearly fits a core's cache."""
