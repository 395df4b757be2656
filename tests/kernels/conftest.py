"""Kernels for GPUs where there is none."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The maker of kernels, which takes the CPU's tensors for a GPU's."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("the GPU itself is tested")
    from evomerge.kernels.gpu import launch

    for name, module in list(sys.modules.items()):
        if name.startswith("evomerge.kernels.") and hasattr(module, "gpu_kernels_for"):
            monkeypatch.setattr(module, "gpu_kernels_for", lambda *tensors: launch)
    return launch


@pytest.fixture
def launches(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many elements' worth of programs each launch since then has."""
    from evomerge.kernels.gpu.merges import Compiled

    gpu.try_out(torch.device("cpu"))
    found: list[int] = []
    begin = Compiled.launch

    def counted(kernel: Compiled, size: int, *arguments: Any) -> None:
        found.append(size)
        begin(kernel, size, *arguments)

    monkeypatch.setattr(Compiled, "launch", counted)
    return found
