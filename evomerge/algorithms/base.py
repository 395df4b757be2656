"""The seam of proposers: ask for a generation of genomes, tell their fitness, in the same order.

A proposer is deterministic given its dimensions, seed and what it was told, so a search is resumed by
replaying the ledger. Fitness is higher-is-better and always finite.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evomerge.space.base import Genome


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
