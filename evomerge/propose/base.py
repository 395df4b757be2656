"""The seam of proposers: ask for a generation of genomes, tell their fitness, in the same order.

A proposer is deterministic given its dimensions, seed and what it was told, so a search is resumed by
replaying the ledger. Fitness is higher-is-better and always finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


class Proposer(Protocol):
    """A search algorithm over a box."""

    population: int

    def ask(self) -> list[Genome]:
        """The next generation. Raises: RuntimeError when asked twice without a tell."""

    def tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        """Report the fitness of the generation asked last, in ask order.

        `genomes` are those really evaluated (on another CPU their last bits may differ from those asked).
        """

    def mean(self) -> Genome | None:
        """Centre of the search distribution, inside the bounds; None for algorithms without one."""
