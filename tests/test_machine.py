"""Processors and memory within the limits of containers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from permafrost.machine import available_memory, cpu_count

GIB = 2**30


def fake_root(folder, files):
    """Write `proc` and `sys` below `folder`; the machine has 8 GiB available."""
    for name, text in {"proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {8 * GIB // 1024} kB\n", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def version_2(group, path, maximum="max", high="max", current=0, page_cache=0):
    """Files of a version 2 control group at `path`, for a process whose own group is `group`."""
    return {
        "proc/self/cgroup": f"0::{group}\n",
        f"sys/fs/cgroup{path}/memory.max": f"{maximum}\n",
        f"sys/fs/cgroup{path}/memory.high": f"{high}\n",
        f"sys/fs/cgroup{path}/memory.current": f"{current}\n",
        f"sys/fs/cgroup{path}/memory.stat": f"anon 5\ninactive_file {page_cache}\nactive_file {page_cache}\n",
    }


def version_1(group, path, limit=2**63 - 4096, usage=0, page_cache=0):
    """Files of a version 1 control group at `path`, for a process whose own group is `group`."""
    return {
        "proc/self/cgroup": f"9:name=systemd:/\n4:cpu,memory:{group}\n0::/\n",
        f"sys/fs/cgroup/memory{path}/memory.limit_in_bytes": f"{limit}\n",
        f"sys/fs/cgroup/memory{path}/memory.usage_in_bytes": f"{usage}\n",
        f"sys/fs/cgroup/memory{path}/memory.stat": f"cache 5\ntotal_inactive_file {page_cache}\n",
    }


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 8 * GIB),
        (version_2("/", ""), 8 * GIB),
        (version_2("/", "", maximum=3 * GIB, current=GIB), 2 * GIB),
        (version_2("/", "", high=2 * GIB, maximum=3 * GIB, current=GIB), GIB),
        (version_2("/", "", maximum=3 * GIB, current=GIB, page_cache=GIB // 4), 2 * GIB + GIB // 2),
        (version_2("/", "", maximum=3 * GIB, current=4 * GIB), 0),
        (version_2("/", "", maximum=99 * GIB), 8 * GIB),
        (version_2("/job/step", "/job/step", maximum=GIB), GIB),
        (version_2("/job/step", "/job", maximum=GIB), GIB),
        (version_2("/job/step", "/other", maximum=GIB), 8 * GIB),
        (version_2("/on/the/host", "", maximum=GIB), GIB),
        (version_2("/../../outside", "", maximum=GIB), GIB),
        (version_1("/", ""), 8 * GIB),
        (version_1("/", "", limit=3 * GIB, usage=GIB), 2 * GIB),
        (version_1("/", "", limit=3 * GIB, usage=GIB, page_cache=GIB // 2), 2 * GIB + GIB // 2),
        (version_1("/job", "/job", limit=GIB), GIB),
        (version_1("/on/the/host", "", limit=GIB), GIB),
    ],
)
def test_available_memory_is_the_machines_lowered_by_the_limits_of_control_groups(tmp_path, files, available):
    assert available_memory(fake_root(tmp_path, files)) == available


def test_available_memory_without_proc_is_half_of_the_machines(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 2000}[name])

    assert available_memory(tmp_path) == 1_000_000


def test_available_memory_of_this_machine_is_no_more_than_it_has():
    assert 0 < available_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextlib.contextmanager
def real_group(limit):
    """Make a control group with a memory limit below this process's own; skip the test where that is not allowed."""
    own = {}
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
        own = {names: path for _, names, path in (line.strip().split(":", 2) for line in file)}
    if "memory" in own:
        parent, name = f"/sys/fs/cgroup/memory{own['memory']}", "memory.limit_in_bytes"
    else:
        parent, name = f"/sys/fs/cgroup{own.get('', '/')}", "memory.max"
    folder = f"{parent}/permafrost-test-{os.getpid()}"
    try:
        os.mkdir(folder)
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        try:
            with open(f"{folder}/{name}", "w") as file:
                file.write(str(limit))
        except OSError as error:
            pytest.skip(f"no memory limit can be set: {error}")
        yield folder
    finally:
        os.rmdir(folder)


def test_available_memory_obeys_a_real_control_group():
    code = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
    code += "from permafrost.machine import available_memory; print(available_memory())"
    with real_group(256 * 2**20) as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, f"{folder}/cgroup.procs"], capture_output=True, text=True, timeout=60
        )

    if "cgroup.procs" in done.stderr or "Errno" in done.stderr:
        pytest.skip(f"no process can join a control group: {done.stderr.splitlines()[-1]}")
    assert 0 < int(done.stdout) <= 256 * 2**20


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity of processes")
def test_the_number_of_processors_follows_the_affinity_of_the_process():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from permafrost.machine import cpu_count; print(cpu_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert int(done.stdout) == 1


def test_the_number_of_processors_is_at_least_one():
    assert 1 <= cpu_count() <= os.cpu_count()
