"""What this process may use of the machine: cores and memory, as affinity and cgroups leave them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Host"]

GIB = 1 << 30
KIB = 1 << 10


class Host(NamedTuple):
    """What this process may use: whole cores (at least 1) and bytes of memory."""

    cores: int
    memory_bytes: int

    @classmethod
    def detect(cls, root: str = "/") -> "Host":
        """Reads CPU affinity, cgroup quotas (v1 and v2) and MemTotal. `root` is for tests: where /proc and /sys are."""
        base = Path(root)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for quota, period in _cpu_quotas(base):
            cores = min(cores, max(1, quota // period))
        limits = list(_memory_limits(base))
        return cls(cores, min(limits) if limits else 4 * GIB)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not this kind of cgroup, or not mounted
        return ""


def _cgroup_folders(base: Path, controller: str) -> Iterable[Path]:
    """The folders of our cgroup and of those around it, for version 2 (controller "") or version 1. In a container the
    path of /proc may be the host's, and then only the mount's own root is there."""
    for line in _read(base / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller not in names.split(","):
            continue
        mount = base / "sys/fs/cgroup" / (names if controller else "")
        here = mount / path.strip("/")
        while True:
            yield here
            if here == mount or mount not in here.parents:
                break
            here = here.parent
        if controller:  # mounted under one name though the kernel lists several ("cpu,cpuacct")
            yield base / "sys/fs/cgroup" / controller


def _cpu_quotas(base: Path) -> Iterable[tuple[int, int]]:
    for folder in _cgroup_folders(base, ""):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            yield int(words[0]), int(words[1])
    for folder in _cgroup_folders(base, "cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota and period and int(quota) > 0:
            yield int(quota), int(period)


def _memory_limits(base: Path) -> Iterable[int]:
    total = re.search(r"^MemTotal:\s+(\d+) kB", _read(base / "proc/meminfo"), re.MULTILINE)
    if total:
        yield int(total.group(1)) * KIB
    files = [folder / "memory.max" for folder in _cgroup_folders(base, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _cgroup_folders(base, "memory")]
    for file in files:
        text = _read(file).strip()
        if text.isdigit() and int(text) < 1 << 60:  # version 1 writes "no limit" as a number of nearly 2^63
            yield int(text)
