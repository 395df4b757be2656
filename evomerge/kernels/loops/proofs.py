"""Float32 arithmetic with a proof, for bfloat16 results at a multiple of float64's speed.

A loop may compute a block in float32 together with a bound of each result's error. Where all numbers
within the bound round to one bfloat16, so does the float64 result, and nothing is lost (Ziv 1991, "Fast
evaluation of elementary mathematical functions with correctly rounded last bit"). The other results are
computed again in float64. So the bytes are those of float64 in every case, and LLVM may contract what
is proved.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import njit

from evomerge.kernels.loops.compile import contracted, inner

UNIT = 2.0**-24
"""The largest relative error of one float32 operation."""

FLOOR = np.float32(2.0**-100)
"""Belongs into every bound: more than underflow on the way can take from a result."""

SUM_ERROR = np.float32(2.25 * UNIT)
"""Times a result: its last addition's error, and that of adding its bound."""

# Set in the float32 numbers from 2 on, infinity and NaN: bounds that prove nothing.
_LARGE = np.int32(0x40000000)
_UPPER_HALF = np.int32(-65536)


@inner
def worthwhile(tried: int, failed: int) -> bool:
    """Whether proofs succeed often enough, for what fails is slow.

    Coefficients like ½ put every other result midway between two numbers.
    """
    return 8 * failed <= tried + 4096


@partial(contracted, by_python=True)
def rounded(value: Any, bound: Any) -> Any:
    """The bfloat16 bits of a float32 result in the upper half of an int32, and a mark, whose upper half is 0 if proved.

    `bound`, not NaN unless it proves nothing, must exceed the error by more than the rounding of value ± bound.
    """
    low = np.int32(np.float32(value - bound).view(np.int32) + np.int32(0x8000))
    high = np.int32(np.float32(value + bound).view(np.int32) + np.int32(0x8000))
    return high, np.int32((low ^ high) | (np.float32(bound).view(np.int32) & _LARGE))


@inner
def unsure(mark: Any) -> Any:
    """Whether a mark, or several joined by or, tells of a result that isn't proved."""
    return (mark & _UPPER_HALF) != 0


@njit(inline="always")
def any_unsure(marks: Any, start: int, stop: int) -> bool:
    """Whether any of the marks start..stop tells of a result that isn't proved."""
    found = False
    for i in range(start, stop):
        # What can't be negative isn't looked at for counting from the end, and is read in one go.
        found |= unsure(marks[np.uint64(i)])
    return found
