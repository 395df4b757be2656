"""How much of this machine a process may use: its cores and memory, within what a container or a job leaves it.

Containers, Kubernetes and Slurm limit a process by Linux's control groups. A limit may stand at its own group or at any
above it, in the older form or the newer (cgroups(7)).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

_TREES, _OWN, _MEMORY = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")
_NO_LIMIT = 1 << 60
"""Bytes from which on the older form means that there is none."""

Limit = TypeVar("Limit", int, float)


def cores() -> int:
    """Cores that this process may use: those that it may run on, or as many as its control groups give it time of."""
    return max(1, math.ceil(min(_cpu_limit(), _cores_to_run_on())))


def limit_threads() -> None:
    """Have libraries that aren't loaded yet start as many threads as there are `cores`.

    They go by the cores to run on. Where a control group gives less time than these have, all threads would often be
    stopped at once. What OMP_NUM_THREADS says stays.
    """
    if cores() < _cores_to_run_on():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def available_bytes() -> int:
    """What new work can take without swapping or passing the limit of a control group.

    Cached files, such as mapped checkpoints, make way, so they count as free. Where the system doesn't say, 4 GiB.
    """
    return min((_bytes_of_machine(), *_limits(_bytes_of, "memory")))


def bytes_with_swap() -> int | None:
    """What new work can take at most: `available_bytes` and the swap space that is free.

    None where the system doesn't say.
    """
    stated = _stated_bytes("MemAvailable", "SwapFree")
    return None if stated is None else available_bytes() + stated[1]


def _cores_to_run_on() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _cpu_limit() -> float:
    """Seconds of processors in a second; asked once, since every tensor that is merged asks."""
    return min(_limits(_cpus_of, "cpu"), default=math.inf)


def _bytes_of_machine() -> int:
    if (stated := _stated_bytes("MemAvailable")) is not None:
        return stated[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30


def _stated_bytes(*names: str) -> list[int] | None:
    """What Linux says of the machine's memory under these names, None elsewhere."""
    try:
        lines = _MEMORY.read_text().splitlines()
        kibibytes = dict(line.removesuffix(" kB").split(":") for line in lines)
        return [1024 * int(kibibytes[name]) for name in names]
    except (OSError, KeyError, ValueError):
        return None


def _limits(limit: Callable[[Path], Limit | None], controller: str) -> Iterator[Limit]:
    """What the process's groups say that limit it, those above them included."""
    for folder in _folders(controller):
        try:
            found = limit(folder)
        except (OSError, ValueError, KeyError):  # a group without this limit, or of the other form
            continue
        if found is not None:
            yield found


def _folders(controller: str) -> Iterator[Path]:
    """Of the groups of this process that a controller may limit; inside containers some can't be seen."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tree = _TREES
        elif controller in controllers.split(","):
            tree = _TREES / controller
        else:
            continue
        own = tree / path.strip("/")
        yield from (own, *(above for above in own.parents if above.is_relative_to(tree)))


def _cpus_of(folder: Path) -> float | None:
    if (newer := folder / "cpu.max").exists():
        quota, period = newer.read_text().split()
    else:
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    return None if quota in {"max", "-1"} else int(quota) / int(period)


def _bytes_of(folder: Path) -> int | None:
    newer = (folder / "memory.max").exists()
    names = ("memory.max", "memory.current") if newer else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = ((folder / name).read_text().strip() for name in names)
    if limit == "max" or int(limit) >= _NO_LIMIT:
        return None
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    files = sum(int(statistics[f"{'' if newer else 'total_'}{kind}_file"]) for kind in ("active", "inactive"))
    return max(0, int(limit) - int(used) + files)
