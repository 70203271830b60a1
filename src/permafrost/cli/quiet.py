"""Keep the output of libraries off standard error, which is for progress bars and error lines."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import ModuleType

from permafrost.process_state import ignored_warnings


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide warnings and log lines of the libraries while the block runs."""
    finder = _QuietFinder()
    sys.meta_path.insert(0, finder)
    try:
        with ignored_warnings(), _quiet_tensorflow():
            yield
    finally:
        sys.meta_path.remove(finder)


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """Let TensorFlow log errors only, in Python and in C++, which reads its level once, in the environment."""
    logger, variable = logging.getLogger("tensorflow"), "TF_CPP_MIN_LOG_LEVEL"
    level, is_set = logger.level, variable in os.environ
    os.environ.setdefault(variable, "3")
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if not is_set:
            del os.environ[variable]


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Import TensorFlow with standard error redirected: its C++ part writes there before it reads any setting."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with _captured_standard_error():
            self._loader.exec_module(module)


@contextlib.contextmanager
def _captured_standard_error() -> Iterator[None]:
    """Capture standard error, from C++ too; print it only if the block raises an exception."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception:  # Not KeyboardInterrupt, which these lines do not explain.
            captured.seek(0)
            os.write(real, captured.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
