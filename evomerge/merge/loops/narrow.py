"""Float32 arithmetic with a proof, for bfloat16 results at twice the speed of float64.

A loop may compute a strip in float32 together with a bound of the error against the exact result. Where
the whole interval that the bound spans rounds to one bfloat16, so does the float64 result, and nothing is
lost (Ziv 1991, "Fast evaluation of elementary mathematical functions with correctly rounded last bit").
Otherwise the strip is merged again in float64. So the bytes are those of float64 in every case.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.loops.elements import BFLOAT16, compiled

BLOCK, STRIP = 512, 128
"""Elements merged at a time, and those that are proved together; one in a few thousand fails."""

UNIT = 2.0**-24
"""The largest relative error of one float32 operation."""

# Between these magnitudes of the result no overflow or underflow on the way matters.
_LEAST, _MOST = np.float32(2.0**-90), np.float32(2.0**120)


@compiled
def representable(number: float) -> bool:
    """Whether a coefficient has float32 numbers beside it, and neither over- nor underflows what it multiplies."""
    return number == 0.0 or 2.0**-30 <= abs(number) <= 2.0**30


@compiled
def all_representable(numbers: Any) -> bool:
    """As `representable`, for each of an array."""
    fine = True
    for number in numbers.flat:
        fine = fine and representable(number)
    return fine


@compiled
def readable(codes: Any, only: int, out_code: int) -> bool:
    """Whether all sources are bfloat16 (or `only`) and results bfloat16."""
    for code in codes:
        if code != BFLOAT16 and code != only:
            return False
    return out_code == BFLOAT16


@compiled
def worthwhile(tried: int, failed: int) -> bool:
    """Whether strips are proved often enough; coefficients like ½ put every other result midway between two numbers."""
    return 4 * failed <= tried + 64


@compiled
def rounded(value: Any, bound: Any) -> Any:
    """The bfloat16 bits of a float32 result, in the upper half of an int32, and 0 if proved.

    `bound` must exceed the error by twice the rounding of value ± bound.
    """
    low = np.int32(np.float32(value - bound).view(np.int32) + np.int32(0x8000))
    high = np.int32(np.float32(value + bound).view(np.int32) + np.int32(0x8000))
    size = abs(value)
    outside = (size < _LEAST) | (not (size < _MOST))
    unsure = np.int32(np.int32(low ^ high) & np.int32(-65536)) | np.int32(outside)
    return high, np.int32(unsure)
