"""Tensors without torch, beside torch's."""

from __future__ import annotations

import sys

import pytest
import torch

from evomerge.kernels.dtypes import DTYPES, dtype_of
from evomerge.kernels.machine import cores
from evomerge.kernels.raw import RawTensor
from evomerge.kernels.threads import num_threads

NAMES = [dtype.name for dtype in DTYPES.values()]


def example(name: str) -> torch.Tensor:
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 20
    return (values > 0 if name == "bool" else values.abs()).to(getattr(torch, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_dtype_says_of_itself_what_torch_says_of_it(name: str) -> None:
    found, torchs = dtype_of(name), getattr(torch, name)
    assert (found.torch, str(found)) == (torchs, str(torchs))
    assert (found.itemsize, found.is_floating_point) == (torchs.itemsize, torchs.is_floating_point)
    assert dtype_of(torchs) is found


@pytest.mark.parametrize("name", NAMES)
def test_a_raw_tensor_is_torchs_there_and_back_in_the_same_memory(name: str) -> None:
    tensor = example(name)
    raw = RawTensor.of(tensor)
    assert raw.torch().dtype == tensor.dtype
    assert torch.equal(raw.torch().view(torch.uint8), tensor.view(torch.uint8))
    assert raw.data_ptr() == tensor.data_ptr() == raw.torch().data_ptr()
    assert (raw.shape, raw.dim(), raw.numel()) == (tuple(tensor.shape), tensor.dim(), tensor.numel())
    assert raw.element_size() == tensor.element_size()


@pytest.mark.parametrize("name", NAMES)
def test_raw_tensors_are_equal_where_torchs_are(name: str) -> None:
    one = example(name)
    other = one.clone()
    assert RawTensor.of(one).equals(RawTensor.of(other))
    other.view(torch.uint8)[-1, -1] ^= 1
    assert not RawTensor.of(one).equals(RawTensor.of(other))
    assert not RawTensor.of(one).equals(RawTensor.of(one.view(6, 4)))


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
def test_zeros_of_either_sign_are_equal_and_nan_isnt_equal_to_itself(name: str) -> None:
    dtype = getattr(torch, name)
    for one, other in ((0.0, -0.0), (float("nan"), float("nan")), (float("inf"), float("inf"))):
        pair = torch.tensor([1.0, one], dtype=dtype), torch.tensor([1.0, other], dtype=dtype)
        assert RawTensor.of(pair[0]).equals(RawTensor.of(pair[1])) == torch.equal(*pair)


def test_a_side_is_moved_as_torch_moves_it() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    moved = RawTensor.of(tensor).movedim(0, -1)
    assert not moved.is_contiguous()
    assert torch.equal(moved.contiguous().torch(), tensor.movedim(0, -1))
    assert moved.data_ptr() == tensor.data_ptr()
    moved.copy_(RawTensor.of(torch.zeros(3, 4, 2)))
    assert not tensor.any()


def test_without_torch_threads_are_those_that_torch_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_threads() == torch.get_num_threads()
    monkeypatch.delitem(sys.modules, "torch")
    for told, expected in (("3", 3), ("5,2", 5), ("0", cores()), ("many", cores())):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert num_threads() == expected
