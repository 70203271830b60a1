"""Everything in this process that a library can change and a program relies on."""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import keras
import matplotlib
import numpy as np
import threadpoolctl
from PIL import Image, ImageFile, PngImagePlugin


def of_keras() -> dict[str, Any]:
    names = ("floatx", "epsilon", "image_data_format", "backend", "max_epochs", "max_steps_per_epoch")
    return {name: getattr(keras.config, name)() for name in names} | {
        "policy": keras.config.dtype_policy().name,
        "logging": keras.config.is_interactive_logging_enabled(),
        "tracebacks": keras.config.is_traceback_filtering_enabled(),
    }


def of_tensorflow() -> dict[str, Any]:
    if keras.backend.backend() != "tensorflow":
        return {}
    import tensorflow

    config = tensorflow.config
    return {
        "eager": config.functions_run_eagerly(),
        "placement": config.get_soft_device_placement(),
        "jit": config.optimizer.get_jit(),
        "optimizer": config.optimizer.get_experimental_options(),
        "threads": (config.threading.get_intra_op_parallelism_threads(), os.environ.get("TF_NUM_INTRAOP_THREADS")),
        "level": tensorflow.get_logger().level,
    }


def of_logging() -> dict[str, Any]:
    loggers = {"": logging.root} | {
        name: found for name, found in logging.root.manager.loggerDict.items() if isinstance(found, logging.Logger)
    }
    return {name: (each.level, each.disabled, list(each.handlers)) for name, each in loggers.items()}


def snapshot() -> dict[str, Any]:
    """Everything in the process that a library can change and a program relies on."""
    umask = os.umask(0)
    os.umask(umask)
    kind, keys, *rest = np.random.get_state()
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": umask,
        "locale": locale.setlocale(locale.LC_ALL),
        "imports": (list(sys.meta_path), list(sys.path), list(sys.path_hooks), sys.modules.get("openvino_telemetry")),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook, sys.gettrace()),
        "interpreter": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "warnings": (list(warnings.filters), warnings.showwarning, warnings.formatwarning),
        "logging": of_logging() | {"disabled": logging.root.manager.disable},
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "wakeup": signal.set_wakeup_fd(-1) if threading.current_thread() is threading.main_thread() else -1,
        "timeout": socket.getdefaulttimeout(),
        "random": random.getstate(),
        "numpy": (kind, keys.tobytes(), *rest, np.geterr(), np.geterrcall(), str(np.get_printoptions())),
        "decimal": str(decimal.getcontext()),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK, list(Image.ID)),
        "png": (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY),
        # Read without `RcParams`, which would choose a backend.
        "matplotlib": {name: str(dict.__getitem__(matplotlib.rcParams, name)) for name in matplotlib.rcParams},
        "keras": of_keras(),
        "tensorflow": of_tensorflow(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "pools": [(each["filepath"], each["num_threads"]) for each in threadpoolctl.threadpool_info()],
    }


def assert_unchanged(before: dict[str, Any], what: Callable[[], object]) -> None:
    """Call a function, and compare the state of the process with that before it."""
    try:
        what()
    finally:
        gc.collect()
        after = snapshot()
        # Loggers and libraries that are first used meanwhile are new.
        after["logging"] = {name: value for name, value in after["logging"].items() if name in before["logging"]}
        after["pools"] = [each for each in after["pools"] if each[0] in {path for path, _ in before["pools"]}]
        changed = {name for name in before if before[name] != after[name]}
        assert not changed, {name: (before[name], after[name]) for name in sorted(changed)}
