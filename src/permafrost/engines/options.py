"""Names and batch sizes of the engines. Loads nothing heavy."""

from __future__ import annotations

from typing import Final

ENGINES: Final = ("auto", "keras", "openvino")

KERAS_BATCH: Final = 32
"""Images in a batch with Keras."""

OPENVINO_BATCH: Final = 8
"""Images in a batch with OpenVINO: what lies between two layers of common bases then fits a core's cache, or nearly."""
