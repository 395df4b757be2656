"""The seam of spaces: dimensions, genomes, and the recipes that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Genome = NDArray[np.float64]
"""A point of the search space in coefficient units, shape (num_dimensions,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One searched coefficient: its name in the ledger, its bounds and where the search starts."""

    name: str
    low: float
    high: float
    initial: float
