"""Many tensors in one launch: as if each had been merged at once, whatever comes in between."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.kernels.fuse import gathered, span
from evomerge.methods import METHODS
from evomerge.testing.inputs import unaligned
from evomerge.testing.method_laws import merges_among_others_as_alone

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # the interpreter's NumPy


def halved(source: Tensor, out: Tensor) -> Any:
    return span((source,), [0.5], out)


def numbers(size: int = 40, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS.names())
def test_methods_merge_among_others_as_alone(gpu: Any, name: str) -> None:
    merges_among_others_as_alone(METHODS.get(name))


def test_tensors_of_one_kind_take_one_launch(launches: list[int]) -> None:
    sources = [numbers(size, seed=size) for size in (48, 160, 2048, 2064, 4096, 16)]
    outs = [torch.empty_like(source) for source in sources]
    with gathered(outs):
        flags = [
            span((source, source), [0.25, float(k)], out)
            for k, (source, out) in enumerate(zip(sources, outs, strict=True))
        ]
        assert launches == []
    assert launches == [8 * 2048]
    assert all(flags)
    for k, (source, out) in enumerate(zip(sources, outs, strict=True)):
        assert torch.equal(out, (source.double() * 0.25 + source.double() * k).float())


def test_each_kind_has_a_launch_of_its_own(launches: list[int]) -> None:
    sources = [numbers(size, dtype=dtype) for size in (32, 96, 31, 33) for dtype in (torch.float32, torch.bfloat16)]
    outs = [torch.empty(len(source)) for source in sources]
    with gathered(outs):
        for source, out in zip(sources, outs, strict=True):
            halved(source, out)
    # Two dtypes, of sizes that are multiples of 16 and of others.
    assert launches == [2 * 2048] * 4
    for source, out in zip(sources, outs, strict=True):
        assert torch.equal(out, source.float() * 0.5)


def test_addresses_that_are_not_aligned_are_a_kind_of_their_own(launches: list[int]) -> None:
    sources = [numbers(64), unaligned(numbers(64, seed=1)), numbers(64, seed=2), unaligned(numbers(64, seed=3))]
    outs = [torch.empty(64) for _ in sources]
    with gathered(outs):
        for source, out in zip(sources, outs, strict=True):
            halved(source, out)
    assert len(launches) == 2
    assert all(torch.equal(out, source * 0.5) for source, out in zip(sources, outs, strict=True))


def test_rows_have_numbers_of_their_own_in_each_tensor(launches: list[int]) -> None:
    sources = [numbers(12, seed=seed).view(3, 4) for seed in range(3)]
    factors = [np.arange(1.0, 4.0)[:, None] * 2.0**seed for seed in range(3)]
    outs = [torch.empty_like(source) for source in sources]
    with gathered(outs):
        for source, factor, out in zip(sources, factors, outs, strict=True):
            span((source,), factor, out)
    assert len(launches) == 1
    for source, factor, out in zip(sources, factors, outs, strict=True):
        assert torch.equal(out, (source.double() * torch.from_numpy(factor)).float())


def test_flags_are_those_of_the_right_tensors(launches: list[int]) -> None:
    sources = [numbers(50, seed=seed) for seed in range(8)]
    sources[2][49], sources[5][0] = torch.nan, -torch.inf
    outs = [torch.empty_like(source) for source in sources]
    with gathered(outs):
        flags = [halved(source, out) for source, out in zip(sources, outs, strict=True)]
    assert len(launches) == 1
    assert [bool(flag) for flag in flags] == [k not in (2, 5) for k in range(8)]


def test_empty_tensors_are_finite_and_launch_nothing(launches: list[int]) -> None:
    outs = [torch.empty(0), torch.empty(0, 3)]
    with gathered(outs):
        flags = [halved(torch.empty_like(out), out) for out in outs]
    assert all(flags)
    assert launches == []


@pytest.mark.parametrize(
    "look",
    [
        lambda source, out: out.clone(),
        lambda source, out: out.view(-1) + 0.0,
        lambda source, out: torch.tensor([out[k].item() for k in range(len(out))]),
        lambda source, out: torch.nn.functional.pad(out, (0, 1))[:-1],
    ],
    ids=["copied", "viewed", "items", "padded"],
)
def test_a_result_is_there_when_it_is_looked_at(launches: list[int], look: Any) -> None:
    source, out = numbers(), torch.full((40,), torch.nan)
    with gathered([out]):
        halved(source, out)
        assert torch.equal(look(source, out), source * 0.5)


def test_a_flag_is_true_when_it_is_looked_at(launches: list[int]) -> None:
    source, out = numbers(), torch.empty(40)
    source[3] = torch.nan
    with gathered([out]):
        assert not halved(source, out)


def test_what_is_changed_afterwards_was_read_before(launches: list[int]) -> None:
    source, out = numbers(), torch.empty(40)
    expected = source * 0.5
    with gathered([out]):
        halved(source, out)
        source.zero_()
        halved(source, source)
        out[0] = 7.0
    assert out[0] == 7.0
    assert torch.equal(out[1:], expected[1:])


def test_a_merge_reads_what_one_before_wrote(launches: list[int]) -> None:
    first, second, third = numbers(), torch.empty(40), torch.empty(40)
    expected = first * 0.25
    with gathered([second]):
        halved(first, second)
        halved(second, third)
        # Written after it was read, and in place.
        halved(third, first)
        halved(third, third)
    # One kernel's programs have no order.
    assert launches == [40] * 4
    assert torch.equal(second, expected * 2.0)
    assert torch.equal(first, expected * 0.5)
    assert torch.equal(third, expected * 0.5)


def test_what_one_merge_reads_the_next_may_overwrite(launches: list[int]) -> None:
    source, out, other = numbers(), torch.empty(40), numbers(seed=1)
    expected = source * 0.5
    with gathered([out]):
        halved(source, out)
        halved(other, source)
    assert launches == [40] * 2
    assert torch.equal(out, expected)
    assert torch.equal(source, other * 0.5)


def test_the_last_of_two_merges_into_one_tensor_stays(launches: list[int]) -> None:
    first, second, out = numbers(seed=1), numbers(seed=2), torch.empty(40)
    with gathered([out]):
        halved(first, out)
        halved(second, out)
    assert launches == [40] * 2
    assert torch.equal(out, second * 0.5)


def test_large_tensors_are_merged_at_once(launches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from evomerge.kernels.gpu import gather

    monkeypatch.setattr(gather, "SMALL", 100)
    small, large = [numbers(seed=seed) for seed in range(3)], numbers(101)
    outs = [torch.empty(40) for _ in small]
    with gathered(outs):
        halved(small[0], outs[0])
        halved(large, large)
        assert launches[0] == 101
        halved(small[1], outs[1])
    assert launches[0] == 101
    assert torch.equal(large, numbers(101) * 0.5)
    assert torch.equal(outs[1], small[1] * 0.5)


def test_no_more_waits_than_is_enough(launches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from evomerge.kernels.gpu import gather

    monkeypatch.setattr(gather, "_ENOUGH", 3 * 40)
    sources = [numbers(seed=seed) for seed in range(7)]
    outs = [torch.empty(40) for _ in sources]
    with gathered(outs):
        for source, out in zip(sources, outs, strict=True):
            halved(source, out)
        assert launches == [3 * 2048] * 2
    assert all(torch.equal(out, source * 0.5) for source, out in zip(sources, outs, strict=True))


def test_contexts_in_contexts_are_one(launches: list[int]) -> None:
    sources, outs = [numbers(seed=seed) for seed in range(3)], [torch.empty(40) for _ in range(3)]
    with gathered(outs):
        halved(sources[0], outs[0])
        with gathered(outs):
            halved(sources[1], outs[1])
        halved(sources[2], outs[2])
    assert len(launches) == 1
    assert all(torch.equal(out, source * 0.5) for source, out in zip(sources, outs, strict=True))


def test_an_error_leaves_nothing_waiting(launches: list[int]) -> None:
    source, out, other = numbers(), torch.zeros(40), torch.zeros(40)

    def fail() -> None:
        with gathered([out]):
            halved(source, out)
            raise MergeError("undefined")

    with pytest.raises(MergeError):
        fail()
    with gathered([other]):
        halved(source, other)
    assert len(launches) == 1
    assert torch.equal(other, source * 0.5)


def test_thresholds_are_looked_for_while_merges_wait(launches: list[int], gpu: Any) -> None:
    source, out = numbers(), torch.empty(40)
    base, expert = torch.zeros(100), numbers(100, seed=4)
    with gathered([out]):
        halved(source, out)
        (found,) = gpu.select(base, [expert], [(0, 0.5, 1.0, 100)])
        assert launches == [100]
        # What is looked through may be what waits to be written.
        (again,) = gpu.select(torch.zeros(40), [out], [(0, 0.0, 9.0, 40)])
    assert np.array_equal(np.sort(found), np.sort([size for size in expert.abs().numpy() if 0.5 <= size < 1.0]))
    assert np.array_equal(np.sort(again), np.sort((source * 0.5).abs().numpy()))


@pytest.mark.parametrize("problem", ["does not compile", "computes nothing"])
def test_where_many_do_not_work_each_is_launched(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    from evomerge.kernels.gpu import gather

    def fails(kind: Any, merges: Any) -> None:
        if problem == "does not compile":
            raise RuntimeError("no such instruction")

    monkeypatch.setattr(gather, "launch_together", fails)
    gpu._gathers.cache_clear()
    sources, outs = [numbers(seed=seed) for seed in range(3)], [torch.empty(40) for _ in range(3)]
    try:
        with caplog.at_level(logging.WARNING):
            gpu.try_out(torch.device("cpu"))
            for _ in range(2):
                with gathered(outs):
                    for source, out in zip(sources, outs, strict=True):
                        halved(source, out)
    finally:
        gpu._gathers.cache_clear()
    assert all(torch.equal(out, source * 0.5) for source, out in zip(sources, outs, strict=True))
    assert caplog.text.count("with a launch for each tensor") == 1


@pytest.mark.slow
def test_tensors_together_are_read_as_wide_as_alone(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "helpers.gpu_code"],
        env={**environment, "PYTHONPATH": paths, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    # Eight numbers of 16 bits at a time, of each source and of the result.
    wide = {"ld.global.v4.b32": 4, "st.global.v4.b32": 1}
    assert wide.items() <= found["alone"].items()
    assert wide.items() <= found["aligned"].items()
    assert not wide.keys() & found["unaligned"].keys()


@pytest.mark.gpu
def test_every_gpu_has_launches_of_its_own() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    sources = [numbers(size, seed=size).to(f"cuda:{size % 2}") for size in range(16, 48)]
    outs = [torch.empty_like(source) for source in sources]
    with gathered(outs):
        flags = [halved(source, out) for source, out in zip(sources, outs, strict=True)]
    assert all(flag.device == out.device and bool(flag) for flag, out in zip(flags, outs, strict=True))
    assert all(torch.equal(out, source * 0.5) for source, out in zip(sources, outs, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS.names())
def test_a_gpu_merges_among_others_as_alone(name: str) -> None:
    merges_among_others_as_alone(METHODS.get(name))
