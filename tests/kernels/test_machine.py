"""Limits of containers and jobs, in trees like those that Linux shows (cgroups(7), proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.kernels import machine

GIB = 1 << 30
NONE = {
    "cpu.max": "max 100000",
    "memory.max": "max",
    "memory.current": str(GIB),
    "memory.stat": "active_file 0\ninactive_file 0",
}


class Machine:
    """One of 16 cores and 64 GiB that is free."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.write(
            "meminfo",
            f"MemTotal: 70000000 kB\nMemAvailable: {64 << 20} kB\nHugePages_Total: 0\nSwapFree: {2 << 20} kB\n",
        )

    def write(self, path: str, text: str) -> None:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        (self._root / path).write_text(text)

    def group(self, path: str, **limits: str) -> None:
        for name, text in {**NONE, **{name.replace("_", ".", 1): text for name, text in limits.items()}}.items():
            self.write(f"tree/{path}/{name}", text + "\n")

    def older_group(self, path: str, *, cpus: float, limit: int, used: int, files: int) -> None:
        self.write(f"tree/cpu/{path}/cpu.cfs_quota_us", f"{round(cpus * 100_000)}\n" if cpus else "-1\n")
        self.write(f"tree/cpu/{path}/cpu.cfs_period_us", "100000\n")
        self.write(f"tree/memory/{path}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"tree/memory/{path}/memory.usage_in_bytes", f"{used}\n")
        self.write(
            f"tree/memory/{path}/memory.stat",
            f"inactive_file 7\ntotal_active_file {files - 5}\ntotal_inactive_file 5\n",
        )


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    for name, path in (("_TREES", "tree"), ("_OWN", "self"), ("_MEMORY", "meminfo")):
        monkeypatch.setattr(machine, name, tmp_path / path)
    monkeypatch.setattr(machine, "_cores_to_run_on", lambda: 16)
    machine._cpu_limit.cache_clear()
    yield Machine(tmp_path)
    machine._cpu_limit.cache_clear()


def test_a_machine_without_control_groups_is_had_whole(computer: Machine) -> None:
    assert (machine.cores(), machine.available_bytes()) == (16, 64 * GIB)


def test_swap_counts_where_something_could_not_be_had_at_all(computer: Machine) -> None:
    assert machine.bytes_with_swap() == 66 * GIB
    computer.write("self", "0::/\n")
    computer.group("", memory_max=str(3 * GIB))
    assert machine.bytes_with_swap() == 4 * GIB
    computer.write("meminfo", "MemTotal: 7 kB\n")
    assert machine.bytes_with_swap() is None
    assert machine.available_bytes() <= 2 * GIB


def test_a_container_sees_its_own_limits_at_the_root(computer: Machine) -> None:
    computer.write("self", "0::/\n")
    files = f"anon 5\nactive_file {GIB // 4}\ninactive_file {GIB // 4 * 3}"
    computer.group("", cpu_max="250000 100000", memory_max=str(8 * GIB), memory_stat=files)
    # A GiB is used, and as much of it makes way.
    assert (machine.cores(), machine.available_bytes()) == (3, 8 * GIB)


def test_the_tightest_limit_counts_at_whatever_group_above_it_stands(computer: Machine) -> None:
    computer.write("self", "0::/system.slice/slurmstepd.scope/job_7/step_0\n")
    computer.group("system.slice", cpu_max="1200000 100000")
    computer.group("system.slice/slurmstepd.scope")
    computer.group("system.slice/slurmstepd.scope/job_7", memory_max=str(4 * GIB), memory_current=str(3 * GIB))
    computer.group("system.slice/slurmstepd.scope/job_7/step_0", cpu_max="400000 50000")
    computer.group("system.slice/slurmstepd.scope/job_8", cpu_max="100000 100000", memory_max="1")
    assert (machine.cores(), machine.available_bytes()) == (8, GIB)


def test_the_older_form_has_a_tree_for_each_controller(computer: Machine) -> None:
    computer.write("self", "9:name=systemd:/\n4:memory:/job\n2:cpu,cpuacct:/job\n0::/\n")
    computer.older_group("job", cpus=1.5, limit=6 * GIB, used=2 * GIB, files=GIB)
    computer.older_group("", cpus=0, limit=(1 << 63) - 4096, used=0, files=5)
    assert (machine.cores(), machine.available_bytes()) == (2, 5 * GIB)


def test_where_a_container_hides_the_groups_above_what_it_sees_counts(computer: Machine) -> None:
    computer.write("self", "4:memory:/docker/af31\n2:cpu:/docker/af31\n")
    computer.older_group("", cpus=4, limit=2 * GIB, used=GIB, files=5)
    assert (machine.cores(), machine.available_bytes()) == (4, GIB + 5)


def test_no_less_than_a_core_and_no_bytes_are_left(computer: Machine) -> None:
    computer.write("self", "0::/\n")
    computer.group("", cpu_max="20000 100000", memory_max=str(GIB), memory_current=str(2 * GIB))
    assert (machine.cores(), machine.available_bytes()) == (1, 0)


@pytest.mark.parametrize(
    ("limit", "told", "expected"), [("300000", None, "3"), ("300000", "5", "5"), ("max", None, None)]
)
def test_libraries_are_told_of_a_limit_that_they_do_not_look_for(
    computer: Machine, monkeypatch: pytest.MonkeyPatch, limit: str, told: str | None, expected: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    computer.write("self", "0::/\n")
    computer.group("", cpu_max=f"{limit} 100000")
    machine.limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == expected
    # What was put there isn't taken back by itself.
    os.environ.pop("OMP_NUM_THREADS", None)
