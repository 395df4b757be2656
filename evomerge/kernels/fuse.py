"""Merging loops over whole tensors: float64 inside, rounded once, the same bytes however they run.

On the CPU a compiled loop makes one pass over raw weights, on a GPU a kernel made from the method's formula does
(`evomerge.kernels.gpu.launch`); where neither can be had, torch computes the formula block by block. Every element goes
through the same float64 operations in all of them, so threads, block sizes and devices don't show in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.dtypes import BFLOAT16, FLOAT32, code_of
from evomerge.kernels.engines import compiled_for, gpu_kernels_for
from evomerge.kernels.formulas import Finite, Formula, for_torch, of_row
from evomerge.kernels.memory import blocks_of, flattened
from evomerge.kernels.rounding import round_once
from evomerge.kernels.threads import in_parts
from evomerge.late import Tensor, torch

_STREAMED = 1 << 19
"""Elements of the smallest tensor that is written past the caches: it would only drive out what is read next."""


def span(sources: Sequence[Tensor], coefficients: Sequence[float] | NDArray[np.float64], out: Tensor) -> Finite:
    """Write Σ coefficient · source, added in order, into `out`; returns whether all of it is finite.

    Args:
        sources: at least one tensor of any floating dtypes, all of the shape of `out`.
        coefficients: one for each source; or shape (rows, sources), for each of as many equal parts of
            the flattened tensors. A coefficient of 0 still lets NaN and infinities through.
        out: where to write, of any floating dtype and strides; may be one of the sources.
    """
    given = np.asarray(coefficients, dtype=np.float64)
    factors = given[:, None] if given.ndim == 1 else given.T.copy()
    length = max(1, out.numel() // factors.shape[1])
    return fuse("span", _weighted_sum, sources, out, (factors, length), provable=lambda: representable(factors))


def _weighted_sum(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
    coefficients, length = numbers
    total = torch.zeros_like(values[0])
    for value, column in zip(values, coefficients, strict=True):
        total = total + value * of_row(column, index, length)
    return total


def fuse(
    loop: str | None,
    formula: Formula,
    sources: Sequence[Tensor],
    out: Tensor,
    numbers: tuple[Any, ...],
    *,
    ranks: Sequence[Tensor] = (),
    provable: Callable[[], bool] = lambda: False,
) -> Finite:
    """Write an elementwise function of the sources into `out`; returns whether all of it is finite.

    Args:
        loop: name of the compiled loop; None if there is none, and torch is fast enough on the CPU.
        formula: the same function in torch.
        sources: tensors of the shape of `out`, of any floating dtypes.
        out: where to write.
        numbers: what the compiled formula computes with: nested tuples of floats, bools and NumPy integers; or, for
            a loop with numbers of its own for each row, arrays.
        ranks: bytes beside the elements, uint8, flattened, that the formula looks at.
        provable: whether the formula's bounds hold for these numbers, so that bfloat16 may be computed in float32.
    """
    target = out if out.is_contiguous() else out.new_empty(out.shape)
    finite: Finite | None = _fused_on_gpu(formula, sources, ranks, numbers, target)
    if finite is None:
        finite = _fused_on_cpu(loop, sources, ranks, numbers, target, provable)
    if finite is None:
        _in_blocks(formula, sources, ranks, numbers, target)
        finite = is_finite(target)
    if target is not out:
        out.copy_(target)
    return finite


def gathered(targets: Iterable[Tensor]) -> AbstractContextManager[None]:
    """Small tensors on GPUs may be merged many by one kernel, in this context and this thread.

    Merges then wait for others. That doesn't show: whatever torch is asked to do meanwhile, it does after what waits,
    and what waits is done when the context ends, unless by an error. Only kernels of one's own, which are given
    addresses, must be preceded by an operation of torch.

    Args:
        targets: what will be written to.
    """
    found = {target.device: gpu for target in targets if (gpu := gpu_kernels_for(target)) is not None}
    return next(iter(found.values())).gathered(found) if found else nullcontext()


def _fused_on_gpu(
    formula: Formula, sources: Sequence[Tensor], ranks: Sequence[Tensor], numbers: Any, out: Tensor
) -> Tensor | None:
    """Merge in one kernel; None where there can't be one."""
    if (gpu := gpu_kernels_for(out)) is None:
        return None
    device = out.device
    here = [
        tensor if tensor.device == device and tensor.is_contiguous() else tensor.to(device).contiguous()
        for tensor in (*sources, *ranks)
    ]
    made: Tensor | None = gpu.fuse(formula, here[: len(sources)], here[len(sources) :], numbers, out)
    return made


def _fused_on_cpu(
    loop: str | None,
    sources: Sequence[Tensor],
    ranks: Sequence[Tensor],
    numbers: tuple[Any, ...],
    out: Tensor,
    provable: Callable[[], bool],
) -> bool | None:
    """Merge in one pass of a compiled loop; None where it can't read the tensors."""
    if loop is None or (compiled := compiled_for(*sources, out)) is None:
        return None
    flat = [flattened(source) for source in sources]
    function, work = getattr(compiled, loop), _work(flat, out, numbers, ranks, provable())
    found: list[bool] = []
    in_parts(lambda start, stop: found.append(function(start, stop, work)), out.numel())
    return all(found)


def _work(
    flat: Sequence[Tensor], out: Tensor, numbers: tuple[Any, ...], ranks: Sequence[Tensor], provable: bool
) -> tuple[Any, ...]:
    """What compiled loops are told, as `evomerge.kernels.loops.elementwise` takes it."""
    addresses, codes = tuple(tensor.data_ptr() for tensor in flat), tuple(code_of(tensor.dtype) for tensor in flat)
    halves = tuple(address for address, code in zip(addresses, codes, strict=True) if code == BFLOAT16)
    singles = tuple(address for address, code in zip(addresses, codes, strict=True) if code == FLOAT32)
    # What isn't proved is read again, so it mustn't have been overwritten.
    if not provable or halves + singles != addresses or not halves or code_of(out.dtype) != BFLOAT16:
        provable = False
    provable = provable and out.data_ptr() not in addresses
    return (
        addresses,
        codes,
        halves if provable else (),
        singles if provable else (),
        tuple(rank.data_ptr() for rank in ranks),
        numbers,
        _in_single(numbers) if provable else None,
        out.data_ptr(),
        code_of(out.dtype),
        out.numel() >= _STREAMED,
    )


def _in_single(numbers: Any) -> Any:
    """The numbers in float32; loops that choose them row by row convert them by themselves."""
    if isinstance(numbers, tuple):
        return (
            True if numbers and isinstance(numbers[0], np.ndarray) else tuple(_in_single(number) for number in numbers)
        )
    return np.float32(numbers) if isinstance(numbers, float) else numbers


def representable(*numbers: Any) -> bool:
    """Whether coefficients, or arrays of them, take and add less by over- or underflow in float32 than bounds allow."""
    return all(
        bool(((sizes == 0.0) | ((sizes >= 2.0**-20) & (sizes <= 2.0**10))).all())
        for sizes in (np.abs(number) for number in numbers)
    )


def is_finite(tensor: Tensor) -> Finite:
    """Whether a tensor holds neither NaN nor infinity, in one read at the speed of memory."""
    if tensor.is_contiguous() and (compiled := compiled_for(tensor)):
        address, code = tensor.data_ptr(), code_of(tensor.dtype)
        found: list[bool] = []
        in_parts(lambda start, stop: found.append(compiled.are_finite(start, stop, address, code)), tensor.numel())
        return all(found)
    if not tensor.numel():
        return True
    # The extremes tell in one read, where isfinite().all() takes tens of times as long.
    least, most = torch.aminmax(tensor)
    finite = least.isfinite() & most.isfinite()
    return bool(finite) if tensor.device.type == "cpu" else finite


def _in_blocks(formula: Formula, sources: Sequence[Tensor], ranks: Sequence[Tensor], numbers: Any, out: Tensor) -> None:
    target, plain = out.view(-1), for_torch(numbers, out.device)
    for part, values, beside, index in blocks_of(sources, ranks, out.device):
        target[part] = round_once(formula(values, beside, index, plain), out.dtype)
