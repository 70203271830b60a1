"""Keras' own settings while this package builds, trains and runs models.

What a program has set for its own models (mixed precision, the default float type, the image format) must not change
what is cached or exported, and must be there again afterwards.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from permafrost.process_state import Overlapping

_SETTINGS: Final = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    "max_epochs": None,
    "max_steps_per_epoch": None,
}
"""The settings of `keras.config` that hold for the whole process, and Keras' defaults."""

_MAX_SEEDS: Final = 10_000
"""The maximum number of seeds that are recognised as drawn by Keras; the largest bases draw about a thousand."""


@contextlib.contextmanager
def keras_defaults(*, load: bool = True) -> Iterator[None]:
    """Use Keras' default settings in the block, or the decorated function, and restore those of the program after it.

    Blocks may overlap in several threads: the last one restores what the first one found. A setting that the program
    changes meanwhile, in another thread, stays as it is then. Threads that start in the block have the default dtype
    policy, too, which belongs to a thread.

    Args:
        load: whether to load Keras; if False and it is not loaded, there is nothing to set.
    """
    if not load and sys.modules.get("keras") is None:
        yield
        return
    import keras

    with _WHOLE_PROCESS:
        found = _thread_policy(keras)
        keras.config.set_dtype_policy(_SETTINGS["floatx"])
        try:
            yield
        finally:
            _set_thread_policy(keras, found)


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Set Keras' defaults for the process, and restore what the program had set, and the state of `random`."""
    from keras import config

    state = random.getstate()
    found = {name: getattr(config, name)() for name in _SETTINGS}
    try:
        for name, value in _SETTINGS.items():
            getattr(config, f"set_{name}")(value)
        yield
    finally:
        for name, value in _SETTINGS.items():
            if getattr(config, name)() == value:
                getattr(config, f"set_{name}")(found[name])
        if _drew_only_seeds(state, random.getstate()):
            random.setstate(state)


_WHOLE_PROCESS: Final = Overlapping(_settings)


def _drew_only_seeds(before: Any, after: Any) -> bool:
    """Return whether nothing but Keras' seeds was drawn between two states of `random`.

    Keras draws a seed for each initializer and each random layer that is given none, though the weights are loaded.
    Numbers that another thread drew meanwhile must not be drawn again.
    """
    replay = random.Random()
    replay.setstate(before)
    for _ in range(_MAX_SEEDS):
        if replay.getstate() == after:
            return True
        replay.randint(1, 10**9)  # As `make_default_seed` in `keras.src.random.seed_generator`.
    return False


def _thread_policy(keras: ModuleType) -> Any:
    """Return this thread's dtype policy; None if it is unset and follows `floatx`, which has no public access."""
    with contextlib.suppress(ImportError, AttributeError):
        from keras.src.backend.common import global_state

        return global_state.get_global_attribute("dtype_policy")
    return keras.config.dtype_policy()


def _set_thread_policy(keras: ModuleType, policy: Any) -> None:
    if policy is not None:
        keras.config.set_dtype_policy(policy)
        return
    from keras.src.backend.common import global_state

    global_state.set_global_attribute("dtype_policy", None)
