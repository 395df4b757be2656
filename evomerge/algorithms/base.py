"""The seam of search algorithms: ask for a generation of genomes, tell their fitness, in the same order.

One that declares it can also be asked for one genome at a time, while others are still being evaluated. A proposer is
deterministic given its dimensions, seed, what it was told and when, so a search is resumed by replaying the ledger.
Fitness is higher-is-better and always finite.

Knows dimensions and turns. Does not know what a genome decodes to, or how it was scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms import PROPOSERS
from evomerge.errors import ConfigError, ShapeError, listed, unknown
from evomerge.space.base import Dimension, DimensionKind, Genome, check_dimensions, settled

_EXPECTED: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class Proposer(ABC):
    """A search algorithm over the dimensions of a space.

    A subclass declares what it can search and what its options are, and writes `_start`, `_ask` and
    `_tell`; turns, shapes and bounds are checked here.

    Args:
        dimensions: what is searched, and where the search starts.
        seed: of all that is drawn.
        population: candidates per generation.
        step_size: initial standard deviation as a fraction of each dimension's range, where there is one.
        options: values of the algorithm's own options; those not given keep their defaults.
        objectives: how many numbers each candidate's fitness has.
    Raises: ConfigError for dimensions, a population, options or objectives that the algorithm doesn't take.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[DimensionKind]] = frozenset({"continuous"})
    """The kinds of dimensions that it can search."""
    conditional: ClassVar[bool] = False
    """Whether dimensions may depend on others."""
    min_dimensions: ClassVar[int] = 1
    min_population: ClassVar[int] = 1
    max_objectives: ClassVar[int | None] = 1
    """The most objectives that it takes; None: any number."""
    varies: ClassVar[bool] = False
    """Whether a generation may have another size than the population."""
    generations_to_lead: ClassVar[int] = 20
    """Small generations after which it is well ahead of random search, of 20 such generations at least, on a smooth
    function of few dimensions."""
    learns: ClassVar[bool] = True
    """Whether what it is told changes what it asks."""
    asynchronous: ClassVar[bool] = False
    """Whether it can be asked for one candidate at a time and told of each, in any order; it then writes `_ask_one` and
    `_tell_one` as well."""
    takes_others: ClassVar[bool] = False
    """Whether it can be told of other genomes inside the bounds than it asked for, and learn from them."""
    learns_items: ClassVar[bool] = False
    """Whether it learns from candidates' scores on each item, which `scores` holds while it is told."""
    options: ClassVar[Mapping[str, type]] = {}
    """Names of its options, each with the type of its values."""

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        *,
        seed: int,
        population: int,
        step_size: float,
        options: Mapping[str, Any] | None = None,
        objectives: int = 1,
    ) -> None:
        check_dimensions(dimensions)
        obstacles = self.obstacles(dimensions)
        if obstacles:
            raise ConfigError(
                f"search.algorithm: {self.name} can't search this space: {listed(obstacles)}; "
                f"use one that can: {', '.join(_able(dimensions)) or 'none is registered'}"
            )
        if population < self.min_population:
            raise ConfigError(
                f"search.population: {self.name} needs at least {self.min_population} candidates in a generation, got "
                f"{population}"
            )
        most = self.max_objectives
        if objectives < 1 or (most is not None and objectives > most):
            taken = "1 or more" if most is None else "1" if most == 1 else f"1 to {most}"
            raise ConfigError(f"search.algorithm: number of objectives: {self.name} takes {taken}, not {objectives}")
        for name, value in (options or {}).items():
            if name not in self.options:
                raise ConfigError(f"search.options.{name}: {unknown(f'option of {self.name}', name, self.options)}")
            if type(value) is not self.options[name] and (type(value), self.options[name]) != (int, float):
                raise ConfigError(f"search.options.{name}: expected {_EXPECTED[self.options[name]]} (found {value!r})")
        self.dimensions = tuple(dimensions)
        self.seed = seed
        self.population = population
        self.step_size = step_size
        self.option = dict(options or {})
        self.objectives = objectives
        self.scores: NDArray[np.float64] | None = None
        """Of the candidates that are being told, on each item, (candidates, items), higher is better; not a number for
        one that hasn't answered all of them. None where nobody knows of items."""
        self._asked: list[Genome] | None = None
        self._open: set[int] = set()
        self._count = 0
        self._start()

    @property
    def size(self) -> int:
        """Candidates of the generation that is asked next: the population, unless the algorithm varies it."""
        return self.population

    def ask(self) -> list[Genome]:
        """The next generation, `size` genomes that are the caller's own.

        Raises: RuntimeError when asked twice without a tell.
        """
        if self._asked is not None:
            raise RuntimeError("asked twice in a row: tell the fitness of the generation asked before")
        if self._count:
            raise RuntimeError("asked for a generation, after candidates were asked one at a time")
        size = self.size
        genomes = self._ask()
        self._check("asked", genomes, size)
        self._asked = [settled(self.dimensions, genome) for genome in genomes]
        return [genome.copy() for genome in self._asked]

    def tell(
        self, genomes: Sequence[Genome], fitness: NDArray[np.float64], scores: NDArray[np.float64] | None = None
    ) -> None:
        """Report the fitness of the generation asked last, in ask order.

        Args:
            genomes: those really evaluated (on another CPU their last bits may differ from those asked).
            fitness: shape (candidates, objectives), higher is better.
            scores: of each item, for an algorithm that learns from them; see `scores`.
        Raises: RuntimeError when told without asking; ShapeError for other numbers of candidates, dimensions or
            objectives; ValueError for a fitness that isn't finite or a genome outside the bounds.
        """
        if self._asked is None:
            raise RuntimeError("told before asking")
        values = self._checked(genomes, len(self._asked), fitness)
        self.scores = None if scores is None else np.array(scores, dtype=np.float64)
        self._tell([np.array(genome, dtype=np.float64) for genome in genomes], values)
        self._asked = None

    def ask_one(self) -> tuple[int, Genome]:
        """One more genome, the caller's own, and the number by which its fitness is told; any number may be open.

        Raises: RuntimeError if the algorithm takes generations alone, or was asked for one.
        """
        if not self.asynchronous:
            raise RuntimeError(f"{self.name} can't be asked for one candidate at a time: it takes generations")
        if self._asked is not None:
            raise RuntimeError("asked for one candidate while a generation is open: tell its fitness first")
        genome = self._ask_one(self._count)
        self._check("asked", [genome], 1)
        self._open.add(self._count)
        self._count += 1
        return self._count - 1, settled(self.dimensions, genome).copy()

    def tell_one(
        self,
        number: int,
        genome: Genome,
        fitness: NDArray[np.float64],
        scores: NDArray[np.float64] | None = None,
    ) -> None:
        """Report the fitness of one candidate that was asked by itself, whenever it is known.

        Args:
            number: that came with it.
            genome: the one really evaluated.
            fitness: shape (objectives,), higher is better.
            scores: of each item, (items,), as `tell`.
        Raises: RuntimeError for a number that isn't open; ShapeError and ValueError as `tell`.
        """
        if number not in self._open:
            raise RuntimeError(f"candidate {number} isn't waiting for its fitness")
        values = self._checked([genome], 1, np.array(fitness, dtype=np.float64)[None])
        self.scores = None if scores is None else np.array(scores, dtype=np.float64)[None]
        self._tell_one(number, np.array(genome, dtype=np.float64), values[0])
        self._open.remove(number)

    def mean(self) -> Genome | None:
        """Centre of the search distribution, inside the bounds; None for algorithms without one."""
        return None

    @classmethod
    def seconds(cls, dimensions: int, candidates: int) -> float:
        """About what asking for one more takes of the driver's processor after so many; 0 where it stays small."""
        return 0.0

    @abstractmethod
    def _start(self) -> None:
        """Set up what asking needs, once, when all arguments are checked and are attributes."""

    @abstractmethod
    def _ask(self) -> list[Genome]:
        """As many genomes as `size` said before, inside the bounds."""

    @abstractmethod
    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        """Learn from the generation that `_ask` gave last; `fitness` has shape (candidates, objectives)."""

    def _ask_one(self, number: int) -> Genome:
        """One genome inside the bounds, the `number`th that is asked by itself."""
        raise NotImplementedError

    def _tell_one(self, number: int, genome: Genome, fitness: NDArray[np.float64]) -> None:
        """Learn from one candidate; `fitness` has shape (objectives,)."""
        raise NotImplementedError

    def _checked(self, genomes: Sequence[Genome], size: int, fitness: NDArray[np.float64]) -> NDArray[np.float64]:
        """The caller's fitness as an own array. Raises: ShapeError, ValueError for what can't be told."""
        self._check("told", genomes, size)
        values = np.array(fitness, dtype=np.float64)
        if values.shape != (size, self.objectives):
            raise ShapeError(
                f"fitness: expected (candidates, objectives) = {(size, self.objectives)}, got {values.shape}"
            )
        if not np.all(np.isfinite(values)):
            raise ValueError("fitness must be finite: decide what a failed candidate is worth before telling")
        return values

    def _check(self, turn: str, genomes: Sequence[Genome], size: int) -> None:
        """Refuse a generation of the wrong shape or outside the bounds."""
        expected = (size, len(self.dimensions))
        shapes = sorted({np.shape(genome) for genome in genomes})
        if len(genomes) != size or shapes != [expected[1:]]:
            found = (len(genomes), *shapes[0]) if len(shapes) == 1 else f"{len(genomes)} genomes of shapes {shapes}"
            raise ShapeError(f"genomes {turn}: expected (candidates, dimensions) = {expected}, got {found}")
        for genome in genomes:
            for dimension, coordinate in zip(self.dimensions, genome, strict=True):
                if not dimension.contains(coordinate):
                    raise ValueError(
                        f"genomes {turn}: {dimension.name} = {float(coordinate)!r} is no {dimension.kind} value from "
                        f"{dimension.low:g} to {dimension.high:g}"
                    )

    @classmethod
    def obstacles(cls, dimensions: Sequence[Dimension]) -> list[str]:
        """What keeps the algorithm from searching these dimensions, in words; nothing if it can."""
        found = strange(dimensions, cls.kinds, conditional=cls.conditional)
        if len(dimensions) < cls.min_dimensions:
            found.append(f"it needs at least {cls.min_dimensions} dimensions, and there is {len(dimensions)}")
        return found


def strange(dimensions: Sequence[Dimension], kinds: Collection[DimensionKind], *, conditional: bool) -> list[str]:
    """Dimensions of other kinds than these, and those that depend on others unless that is allowed, in words."""
    found = [f"{item.name} is {item.kind}" for item in dimensions if item.kind not in kinds]
    if not conditional:
        found += [
            f"{item.name} depends on {item.condition.dimension}" for item in dimensions if item.condition is not None
        ]
    return found


def _able(dimensions: Sequence[Dimension]) -> list[str]:
    """Names of the algorithms that can search these dimensions."""
    algorithms = {name: PROPOSERS.get(name) for name in PROPOSERS}
    return [
        name for name, found in algorithms.items() if issubclass(found, Proposer) and not found.obstacles(dimensions)
    ]
