"""Small searches for any algorithm: boxes, spaces with every kind of dimension, and a sphere to climb."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.base import Proposer
from evomerge.space.base import Condition, Dimension, Genome
from evomerge.streams import stream

Fitness = Callable[[list[Genome]], NDArray[np.float64]]

POPULATION = 8
BOX = tuple(Dimension(name=f"x{index}", low=-1.0, high=2.0, initial=0.25) for index in range(4))
# -0.8 + 1 * (1.6 - -0.8) is rounded past 1.6.
UNEVEN = (
    Dimension(name="small", low=1e-6, high=3e-6, initial=2e-6),
    Dimension(name="large", low=-1e6, high=1e6, initial=1e6),
    Dimension(name="rounded", low=-0.8, high=1.6, initial=1.6),
)
_METHOD = Dimension.categorical("method", ("linear", "ties", "dare"), initial="ties")
_DEPTH = Dimension(name="depth", kind="integer", low=-2, high=5, initial=0)
_DENSITY = Dimension(
    name="density", low=0.25, high=1.0, initial=0.5, condition=Condition(dimension="method", values=("ties", "dare"))
)
SPACES = (BOX, UNEVEN, (*BOX[:2], _DEPTH), (*BOX[:2], _METHOD), (*BOX[:2], _METHOD, _DEPTH, _DENSITY))
"""Boxes, and spaces with dimensions of ever more kinds."""


def is_quick(algorithm: type[Proposer]) -> bool:
    """Whether it declares to learn much sooner than most. It takes its time for each candidate, then."""
    return algorithm.generations_to_lead <= Proposer.generations_to_lead // 4


def population_of(algorithm: type[Proposer]) -> int:
    """Candidates per generation of its small searches: fewer of one that takes its time for each."""
    return max(algorithm.min_population, POPULATION // 2) if is_quick(algorithm) else POPULATION


def make(
    algorithm: type[Proposer],
    dimensions: tuple[Dimension, ...] = BOX,
    *,
    seed: int = 0,
    population: int | None = None,
    objectives: int = 1,
) -> Proposer:
    """An instance that starts at the dimensions' initial values, for one objective if no more are named."""
    size = population_of(algorithm) if population is None else population
    return algorithm(dimensions, seed=seed, population=size, step_size=0.2, objectives=objectives)


def sphere(
    dimensions: tuple[Dimension, ...] = BOX, *, optimum: float = 0.75, factor: float = 1.0, objectives: int = 1
) -> Fitness:
    """Minus the squared distance to one point, in fractions of each range; the best fitness is 0.

    All objectives are the same.
    """
    low = np.array([dimension.low for dimension in dimensions])
    extent = np.array([dimension.high for dimension in dimensions]) - low

    def fitness(genomes: list[Genome]) -> NDArray[np.float64]:
        distances = [float(np.sum(((genome - low) / extent - optimum) ** 2)) for genome in genomes]
        return np.array([[-factor * distance] * objectives for distance in distances])

    return fitness


def evolve(proposer: Proposer, fitness: Fitness, generations: int) -> list[Genome]:
    """Everything asked in so many generations."""
    asked: list[Genome] = []
    for _ in range(generations):
        genomes = proposer.ask()
        asked += genomes
        proposer.tell(genomes, fitness(genomes))
    return asked


def evolve_steadily(
    proposer: Proposer, fitness: Fitness, count: int, *, in_flight: int = 5
) -> list[tuple[int, Genome, NDArray[np.float64] | None]]:
    """Keep several candidates in flight, which end in any order, until so many have been asked.

    Returns: every turn in its order, with the candidate's number and genome; of a tell also its fitness.
    """
    generator = stream(0, "steadily")
    turns: list[tuple[int, Genome, NDArray[np.float64] | None]] = []
    open_: dict[int, Genome] = {}
    for _ in range(count):
        if len(open_) == in_flight:
            ended = int(generator.choice([*open_]))
            genome = open_.pop(ended)
            (told,) = fitness([genome])
            proposer.tell_one(ended, genome, told)
            turns.append((ended, genome, told))
        number, genome = proposer.ask_one()
        open_[number] = genome
        turns.append((number, genome, None))
    return turns


def enough(algorithm: type[Proposer], usual: int) -> int:
    """So many generations, or as much fewer as the algorithm declares to learn sooner than most, but not below four.

    What learns much from each candidate takes its time for each, too. The first three generations may be draws, before
    it has learnt enough to ask by it.
    """
    share = min(1.0, algorithm.generations_to_lead / Proposer.generations_to_lead)
    return min(usual, max(4, math.ceil(usual * share)))


def digest(algorithm: type[Proposer]) -> str:
    """A hash of all that the algorithm asks, to the last bit, in the spaces that tell most of it."""
    found = hashlib.sha256()
    for dimensions in richest(algorithm):
        genomes = evolve(make(algorithm, dimensions, seed=3), sphere(dimensions), enough(algorithm, 4))
        found.update(np.array(genomes).tobytes())
    return found.hexdigest()


def richest(algorithm: type[Proposer]) -> list[tuple[Dimension, ...]]:
    """The spaces that the algorithm can search; of one that takes its time for each candidate only that with most kinds
    of dimensions.
    """
    return searched(algorithm)[-1:] if is_quick(algorithm) else searched(algorithm)


def searched(algorithm: type[Proposer]) -> list[tuple[Dimension, ...]]:
    """The spaces that the algorithm declares it can search."""
    return [
        dimensions
        for dimensions in SPACES
        if {item.kind for item in dimensions} <= algorithm.kinds
        and (algorithm.conditional or all(item.condition is None for item in dimensions))
    ]
