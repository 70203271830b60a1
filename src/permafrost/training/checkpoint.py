"""Where training stands at the end of an epoch, in one file: whatever was killed goes on from there.

The file is an `.npz` of plain arrays, written beside its name and renamed, so that it is an old state or a new one.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.atomic import commit_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """Where training stands.

    Attributes:
        weights: of what is trained, and the state of its random generators.
        optimizer: the optimizer's variables.
        best: `weights` of the best epoch; None where no epoch was an improvement.
        about: the rest, as JSON: history, best figure, epochs without improvement, whether training has ended.
    """

    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    best: list[np.ndarray] | None
    about: dict[str, Any]


def save_state(path: Path, state: State) -> None:
    """Write a state, whole or not at all.

    Raises:
        WriteError: the disk is full, or the like.
    """
    groups = {"weights": state.weights, "optimizer": state.optimizer, "best": state.best or []}
    arrays: dict[str, Any] = {
        f"{group}_{i}": array for group, members in groups.items() for i, array in enumerate(members)
    }
    about = {"counts": {group: len(members) for group, members in groups.items()}, "about": state.about}
    buffer = io.BytesIO()
    np.savez(buffer, about=np.frombuffer(json.dumps(about).encode("ascii"), np.uint8), **arrays)
    commit_bytes(path, buffer.getbuffer())


def load_state(path: Path) -> State | None:
    """The state that `save_state` wrote; None where there is none, or none that can be read: training starts anew."""
    try:
        # Opened here, as NumPy leaves a file open that it finds damaged.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            content = json.loads(file["about"].tobytes())
            groups = {group: [file[f"{group}_{i}"] for i in range(count)] for group, count in content["counts"].items()}
            return State(
                weights=groups["weights"],
                optimizer=groups["optimizer"],
                best=groups["best"] or None,
                about=dict(content["about"]),
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, EOFError):
        return None
