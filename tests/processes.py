"""Real processes for tests, forked from one that has imported the libraries, so that tens of them take seconds."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any


class Nursery:
    """A process that has imported some modules and forks others.

    Args:
        modules: the modules to import.
    """

    def __init__(self, *modules: str) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Threads do not survive a fork, and these processes need only one.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )

    def start(self, function: str, *arguments: Any, output: Path) -> int:
        """Call a function in a new process.

        Args:
            function: `module.function`.
            arguments: its arguments, as JSON. Its return value is the exit status.
            output: file for both output streams.

        Returns:
            The process ID.
        """
        return self._ask({"call": function, "arguments": arguments, "output": str(output)})

    def wait(self, process: int) -> int:
        """Wait for a process and return its exit status; a negative one is the signal that killed it."""
        return self._ask({"wait": process})

    def close(self) -> None:
        """End the parent process."""
        self._parent.communicate()

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._parent.stdin and self._parent.stdout
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())


def _answer_requests(modules: list[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    warnings.simplefilter("ignore", DeprecationWarning)  # About forking with threads; none is in use.
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                os._exit(_call(request))
        print(answer, flush=True)


def _call(request: dict[str, Any]) -> int:
    handle = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    module, name = request["call"].rsplit(".", 1)
    try:
        return int(getattr(importlib.import_module(module), name)(*request["arguments"]) or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    _answer_requests(sys.argv[1:])
