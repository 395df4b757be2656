from __future__ import annotations

import pytest
import torch

from evomerge.errors import ShapeError
from evomerge.kernels.engines import torch_only
from evomerge.kernels.low_rank import add_low_rank

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def example(dtype: torch.dtype, rows: int = 37, columns: int = 1300, rank: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, columns), (rows, rank), (rank, columns))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_dtype", DTYPES)
def test_the_sum_is_the_float64_one_rounded_once_with_and_without_compiled_loops(
    dtype: torch.dtype, out_dtype: torch.dtype
) -> None:
    base, left, right = example(dtype)
    exact = base.double() + 1.7 * (left.double() @ right.double())
    out, again = torch.empty(base.shape, dtype=out_dtype), torch.empty(base.shape, dtype=out_dtype)
    add_low_rank(base, left, right, 1.7, out)
    with torch_only():
        add_low_rank(base, left, right, 1.7, again)
    assert torch.equal(out, again)
    close = 1e-13 if out_dtype == torch.float64 else torch.finfo(out_dtype).eps * 0.501
    assert float(((out.double() - exact) / exact.abs().clamp(min=1e-3)).abs().max()) <= close


def test_threads_dont_show() -> None:
    base, left, right = example(torch.float32, rows=700)
    results = []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        results.append(torch.empty_like(base))
        add_low_rank(base, left, right, 0.3, results[-1])
    torch.set_num_threads(1)
    assert torch.equal(*results)


def test_transposed_factors_and_empty_ranks_are_fine() -> None:
    base, left, right = example(torch.float32)
    straight, turned = torch.empty_like(base), torch.empty_like(base)
    add_low_rank(base, left, right, 1.0, straight)
    add_low_rank(base, left.T.contiguous().T, right.T.contiguous().T, 1.0, turned)
    assert torch.equal(straight, turned)
    add_low_rank(base, left[:, :0], right[:0], 1.0, straight)
    assert torch.equal(straight, base)


def test_shapes_that_dont_fit_are_refused() -> None:
    base, left, right = example(torch.float32)
    with pytest.raises(ShapeError, match=r"\(37, 5\) times \(4, 1300\)"):
        add_low_rank(base, left, right[:4], 1.0, torch.empty_like(base))
