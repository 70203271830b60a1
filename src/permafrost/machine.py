"""Processors and memory that this process may use, within the limits of its container."""

from __future__ import annotations

import dataclasses
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Final


@dataclasses.dataclass(frozen=True, kw_only=True)
class _MemoryController:
    """The files in which one version of Linux control groups gives its memory limits.

    Attributes:
        name: the controller's name in `/proc/self/cgroup`.
        mount: the folder of the hierarchy's root group, relative to `/`.
        limits: files with limits in bytes.
        usage: the file with the number of bytes in use.
        page_cache: entries of `memory.stat` that count reclaimable page cache.
    """

    name: str
    mount: str
    limits: tuple[str, ...]
    usage: str
    page_cache: tuple[str, ...]


_CONTROLLERS: Final = (
    _MemoryController(
        name="",
        mount="sys/fs/cgroup",
        limits=("memory.max", "memory.high"),
        usage="memory.current",
        page_cache=("inactive_file", "active_file"),
    ),
    _MemoryController(
        name="memory",
        mount="sys/fs/cgroup/memory",
        limits=("memory.limit_in_bytes",),
        usage="memory.usage_in_bytes",
        page_cache=("total_inactive_file", "total_active_file"),
    ),
)
"""Version 2, then version 1; `man 7 cgroups` describes both."""


def cpu_count() -> int:
    """Return the number of processors that this process may use, at least 1.

    The process's affinity and a container's quota lower it, as does the environment variable `LOKY_MAX_CPU_COUNT`.
    """
    from joblib import cpu_count

    return int(cpu_count())


def available_memory(root: Path = Path("/")) -> int:
    """Return how many more bytes of memory this process can take before it swaps or is killed.

    On Linux this is `MemAvailable`, or less if a control group of the process (a container's, a batch job's) allows
    less. Elsewhere it is half of the machine's memory.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    kilobytes = _table(root / "proc/meminfo").get("MemAvailable:")
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min([half if kilobytes is None else 1024 * kilobytes, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield the bytes left below each limit of each control group that this process belongs to."""
    for controller in _CONTROLLERS:
        mount = root / controller.mount
        for group in _groups(root, controller):
            folder = mount / group
            used = _number(folder / controller.usage)
            if used is None:
                continue
            statistics = _table(folder / "memory.stat")
            used -= sum(statistics.get(entry, 0) for entry in controller.page_cache)
            for name in controller.limits:
                limit = _number(folder / name)
                if limit is not None:
                    yield max(0, limit - max(0, used))


def _groups(root: Path, controller: _MemoryController) -> list[str]:
    """Return the process's own group and its ancestors, relative to the mount; the root group is the empty string.

    In a container the path may be the host's, which does not exist here: then the root group is the container's.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller.name in names.split(","):
            group = posixpath.normpath("/" + path.strip()).lstrip("/")
            parts = group.split("/") if group else []
            return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]
    return []


def _table(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number per line."""
    fields = (line.split() for line in _text(path).splitlines())
    return {each[0]: int(each[1]) for each in fields if len(each) > 1 and each[1].isdigit()}


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max" means no limit


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
