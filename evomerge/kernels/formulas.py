"""Formulas of elementwise merges: what they are given, and what they may use beside torch.

A formula is the definition of a method's arithmetic. Torch computes it as it stands; where a kernel for a GPU can be
made of it, or a compiled loop for the CPU is written beside it, the bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.late import Tensor, torch

Formula = Callable[[list[Tensor], list[Tensor], Tensor, Any], Tensor]
"""Merged float64 values of some elements: formula(values, ranks, index, numbers).

Takes each source's values in float64, the ranks beside them as whole numbers, the elements' indices, and the numbers
of the merge as `unpacked` gives them. It uses arithmetic, comparisons, `torch.where`, `.abs()`, `.to()` and this
file's functions, out of place and without asking for truth values, so that a kernel can be made of it: once for each
formula, which is therefore a function that stays, not one that every merge makes.
"""


def of_row(numbers: Any, index: Tensor, length: Any) -> Any:
    """In a formula: of numbers for each row of so many elements, the one at each element."""
    return numbers[0] if isinstance(numbers, tuple) else numbers[index // length]


def quotient(dividend: Tensor, divisor: Tensor) -> Tensor:
    """In a formula: dividend / divisor, which GPUs compute many times more slowly where the dividend is zero."""
    is_zero = dividend == 0.0
    return torch.where(is_zero, dividend * divisor, torch.where(is_zero, 1.0, dividend) / divisor)


def uniform(index: Tensor, first: Any, second: Any) -> Tensor:
    """In a formula: the random numbers of elements, whole ones below 2³¹.

    Each depends on two 32-bit keys and on the element's index alone (two rounds of the mixing function
    lowbias32, Wellons 2018, with a key before each; the last step of the second, which hardly touches the
    upper bits, is left out).
    """
    if torch.overrides.has_torch_function_unary(index):
        made: Tensor = torch.overrides.handle_torch_function(uniform, (index,), index, first, second)
        return made
    mixed = _mix((index & _WORD) ^ int(first))
    return _stir((mixed + (int(second) ^ (index >> 32))) & _WORD) >> 1


def unpacked(numbers: Any, single: Callable[[Any], Any], array: Callable[[NDArray[np.float64]], Any]) -> Any:
    """The numbers of a merge as a formula takes them, in the same nesting.

    Args:
        numbers: as `fuse` takes them.
        single: makes what stands for one number.
        array: makes what stands for two or more in a row. One alone becomes a tuple of itself, and a matrix a
            tuple of its rows.
    """
    kind = type(numbers)
    if kind is tuple:
        return tuple([unpacked(number, single, array) for number in numbers])
    if kind is np.ndarray and numbers.ndim > 1:
        return tuple([unpacked(row, single, array) for row in numbers])
    if kind is np.ndarray:
        return array(numbers) if len(numbers) > 1 else tuple([single(number) for number in numbers.tolist()])
    return numbers if numbers is None or kind is bool else single(numbers)


def for_torch(numbers: Any, device: torch.device) -> Any:
    """The numbers of a merge for a formula that torch computes: Python's own, and tensors for arrays."""
    return unpacked(
        numbers,
        lambda number: number.item() if isinstance(number, np.generic) else number,
        lambda values: torch.from_numpy(np.ascontiguousarray(values)).to(device),
    )


_WORD = 0xFFFFFFFF


def _stir(value: Tensor) -> Tensor:
    value = value ^ (value >> 16)
    value = (value * 0x7FEB352D) & _WORD
    value = value ^ (value >> 15)
    return (value * 0x846CA68B) & _WORD


def _mix(value: Tensor) -> Tensor:
    value = _stir(value)
    return value ^ (value >> 16)


Finite = bool | Tensor
"""Whether a result is finite: known, or bool of shape () on a GPU that may still be computing it."""
