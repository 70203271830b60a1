"""Save the training state at the end of an epoch in one file, and load it to resume.

The file is an `.npz` of plain arrays, and is replaced atomically.
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
    """The training state at the end of an epoch.

    Attributes:
        weights: the variables that training changes, random generators included.
        optimizer: the optimizer's variables.
        best: `weights` of the best epoch; None if no epoch was an improvement.
        about: the rest, as JSON: the history, the best epoch, and whether training has ended.
    """

    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    best: list[np.ndarray] | None
    about: dict[str, Any]


def save_state(path: Path, state: State) -> None:
    """Write a state atomically.

    Raises:
        WriteError: the file cannot be written, e.g. because the disk is full.
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
    """Load a state that `save_state` wrote; return None if the file is missing or damaged."""
    try:
        # Opened here because NumPy does not close a file that it finds damaged.
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
