"""The formula of NearSwap."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops import proofs
from evomerge.kernels.loops.compile import compiled
from evomerge.kernels.loops.elementwise import run
from evomerge.kernels.loops.tuples import formula


@formula
def _formula(values: Any, ranks: Any, place: Any, numbers: Any) -> Any:
    """Step from the first source to the second, whole where they are within t. What it gives is continuous."""
    t, nearest = numbers
    number = type(values[0])
    vector = values[1] - values[0]
    distance = abs(vector)
    share = t / (nearest if distance < nearest else distance)
    change = (number(1) if share > number(1) else share) * vector
    value = values[0] + change
    return value, np.float32(16.0 * proofs.UNIT) * abs(change) + proofs.SUM_ERROR * abs(value) + proofs.FLOOR


@compiled
def merge_nearswap(start: int, stop: int, work: Any) -> bool:
    """Steps of at most t."""
    return bool(run(_formula, start, stop, work))
