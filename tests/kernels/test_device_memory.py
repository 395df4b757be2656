"""Memory of a GPU that several processes share: each counts on its own part alone, and can't take more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.kernels import device_memory
from evomerge.kernels.device_memory import free_bytes, is_shared, part_of, take_share
from helpers.commands import run

GPU = torch.device("cuda")
TOTAL, GIB = 80 << 30, 1 << 30


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a GPU of 80 GiB says of itself to a process that knows of no share; written to by tests."""
    told = SimpleNamespace(free=TOTAL, reserved=0, allocated=0, fraction=1.0)
    monkeypatch.setattr(device_memory, "_parts", {})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=TOTAL))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (told.free, TOTAL))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: told.reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: told.allocated)

    def limit(fraction: float, device: torch.device) -> None:
        told.fraction = fraction

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    return told


def test_a_process_alone_counts_on_all_that_is_free_or_that_torch_keeps(memory: SimpleNamespace) -> None:
    memory.free, memory.reserved, memory.allocated = 50 * GIB, 20 * GIB, 15 * GIB
    assert free_bytes(GPU) == 55 * GIB
    assert not is_shared(GPU)


def test_one_of_two_counts_on_its_half_less_what_cuda_takes(memory: SimpleNamespace) -> None:
    take_share(GPU, 0.5)
    assert is_shared(torch.device("cuda", 0))
    assert not is_shared(torch.device("cuda", 1))
    assert not is_shared(torch.device("cpu"))
    assert memory.fraction * TOTAL == 39 * GIB
    assert free_bytes(GPU) == 39 * GIB
    # Its own tensors come off its part, the other's don't.
    memory.free, memory.reserved, memory.allocated = 45 * GIB, 16 * GIB, 15 * GIB
    assert free_bytes(GPU) == 24 * GIB
    # Where somebody else has taken more than is his, what is left counts.
    memory.free = 2 * GIB
    assert free_bytes(GPU) == 3 * GIB
    memory.allocated = memory.reserved = 40 * GIB
    assert free_bytes(GPU) == 0


@given(st.integers(1 << 20, 1 << 40), st.integers(2, 16))
def test_all_parts_and_what_cuda_takes_for_each_fit_on_the_gpu(total: int, processes: int) -> None:
    part = part_of(total, 1 / processes)
    assert 0 < part <= total / processes
    if total >= 2 * processes * GIB:
        assert processes * (part + GIB) <= total + processes


LIMITED = """
import torch
from evomerge.kernels.device_memory import free_bytes, part_of, take_share

gpu = torch.device("cuda")
total = torch.cuda.get_device_properties(gpu).total_memory
take_share(gpu, 0.1)
assert free_bytes(gpu) <= part_of(total, 0.1)
torch.empty(part_of(total, 0.1) // 2, dtype=torch.uint8, device=gpu)
try:
    torch.empty(total // 5, dtype=torch.uint8, device=gpu)
except torch.OutOfMemoryError:
    print("no more")
"""


@pytest.mark.gpu
def test_a_real_gpu_gives_no_more_than_the_share(tmp_path: Path) -> None:
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    done = run([], script=script)
    assert done.stdout == "no more\n", done.stderr
