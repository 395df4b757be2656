"""What a live model computes in: the weights' own format, or float32 where a CPU has no arithmetic for that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from evomerge.inference import arithmetic
from evomerge.inference.arithmetic import MUCH, arithmetic_for, slowness
from helpers.patience import LONG_S


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("times", [0.5, 50.0])
def test_a_format_is_left_alone_but_where_a_cpu_is_much_slower_in_it(
    monkeypatch: pytest.MonkeyPatch, dtype: str, times: float
) -> None:
    monkeypatch.setattr(arithmetic, "slowness", lambda name: times)
    found = arithmetic_for(dtype, "auto", on_cpu=True)
    assert found.dtype == ("float32" if times > 1 else dtype)
    assert f"{times:.2g} times" in found.why
    for on_cpu in (False, None):
        assert arithmetic_for(dtype, "auto", on_cpu=on_cpu).dtype == dtype
    for on_cpu in (True, False, None):
        assert arithmetic_for(dtype, "stored", on_cpu=on_cpu).dtype == dtype
        assert arithmetic_for(dtype, "float32", on_cpu=on_cpu).dtype == "float32"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wider_formats_are_computed_in_without_a_measurement(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.delattr(arithmetic, "slowness")
    assert arithmetic_for(dtype, "auto", on_cpu=True).dtype == dtype


def test_measuring_leaves_the_number_of_threads_alone_and_is_done_once() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        slowness.cache_clear()
        assert slowness("bfloat16") == slowness("bfloat16") > 0
        assert torch.get_num_threads() == 2
        assert slowness.cache_info().misses == 1
    finally:
        torch.set_num_threads(before)


# A product large enough for its speed to be the arithmetic's, timed without the package.
TIMED = """
import time, torch
torch.set_num_threads(1)
def best(dtype):
    one, other = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    found = []
    for _ in range(6):
        start = time.thread_time()
        torch.nn.functional.linear(one, other)
        found.append(time.thread_time() - start)
    return min(found[1:])
from evomerge.inference.arithmetic import slowness
print(best(torch.bfloat16) / best(torch.float32), slowness("bfloat16"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{}, {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}])
def test_what_is_measured_in_milliseconds_holds_for_larger_products(limits: dict[str, str]) -> None:
    child = subprocess.run(
        [sys.executable, "-c", TIMED],
        env=os.environ | limits,
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG_S,
    )
    large, measured = map(float, child.stdout.split())
    if not MUCH / 1.5 < large < MUCH * 1.5:
        assert (measured > MUCH) == (large > MUCH)
    if limits and torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert measured > MUCH
