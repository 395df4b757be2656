"""Optuna's samplers as proposers, one generation at a time.

Optuna doesn't persist its samplers' generators. A search is replayed from its first candidate, so a sampler that lives
as long as the search draws the same again; TPE and random search have a fresh one for each trial, seeded from the run's
seed and the trial's position.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from evomerge.algorithms.base import Proposer
from evomerge.errors import ConfigError, unknown
from evomerge.space.base import DIMENSION_KINDS, DimensionKind, Genome
from evomerge.space.distributions import distribution_of
from evomerge.streams import derive


class SamplerProposer(Proposer):
    """Asks one of Optuna's samplers through an in-memory study. The first genome is the initial point.

    A subclass writes `_sampler`.
    """

    kinds: ClassVar[frozenset[DimensionKind]] = frozenset(DIMENSION_KINDS)
    conditional = True
    max_objectives: ClassVar[int | None] = None
    asynchronous = True
    fresh: ClassVar[bool] = False
    """Whether each candidate is drawn by a sampler of its own."""

    def _start(self) -> None:
        self._distributions = {dimension.name: distribution_of(dimension) for dimension in self.dimensions}
        with quiet():
            self._study = optuna.create_study(directions=["maximize"] * self.objectives)
            self._study.sampler = self._sampler(derive(self.seed, self.name, bits=32))
        self._study.enqueue_trial({item.name: item.value(item.initial) for item in self.dimensions})
        self._trials: list[optuna.Trial] = []
        self._running: dict[int, optuna.Trial] = {}
        self._drawn = 0

    def _ask(self) -> list[Genome]:
        """Each candidate knows that those before it are still being evaluated."""
        with quiet():
            drawn = [self._draw() for _ in range(self.population)]
        self._trials = [trial for trial, _ in drawn]
        return [genome for _, genome in drawn]

    def _ask_one(self, number: int) -> Genome:
        with quiet():
            self._running[number], genome = self._draw()
        return genome

    def _tell_one(self, number: int, genome: Genome, fitness: NDArray[np.float64]) -> None:
        with quiet():
            self._study.tell(self._running.pop(number), fitness.tolist())

    def _draw(self) -> tuple[optuna.Trial, Genome]:
        if self.fresh:
            self._study.sampler = self._sampler(derive(self.seed, self.name, self._drawn, bits=32))
        trial = self._study.ask()
        self._drawn += 1
        return trial, self._suggested(trial)

    def _suggested(self, trial: optuna.Trial) -> Genome:
        """Draw each dimension that matters, given those before it."""
        values: dict[str, Any] = {}
        for item in self.dimensions:
            if item.matters(values):
                values[item.name] = _suggest(trial, item.name, self._distributions[item.name])
        return np.array(
            [item.coordinate(values[item.name]) if item.name in values else item.low for item in self.dimensions]
        )

    def _tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        with quiet():
            for trial, values in zip(self._trials, fitness, strict=True):
                self._study.tell(trial, values.tolist())

    def _sampler(self, seed: int) -> BaseSampler:
        """A sampler with this seed."""
        raise NotImplementedError


@contextmanager
def quiet() -> Iterator[None]:
    """What a sampler does at its discretion, such as drawing a parameter apart, is no news to the user.

    Python goes through all loggers of the process when a level changes, so this isn't for each candidate apart.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """A value of the distribution, through Optuna's public calls."""
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)


class TPE(SamplerProposer):
    """Tree-structured Parzen estimator, multivariate, with constant liar (Bergstra et al. 2011).

    Options: `n_startup_trials` (random candidates before the model is used, default 10).
    """

    name = "tpe"
    fresh = True
    options: ClassVar[Mapping[str, type]] = {"n_startup_trials": int}

    @classmethod
    def seconds(cls, dimensions: int, candidates: int) -> float:
        """As measured: see docs/search.md."""
        return 1.6e-6 * dimensions * candidates

    def _sampler(self, seed: int) -> BaseSampler:
        # Dimensions that only some candidates have are modelled apart.
        apart = any(dimension.condition is not None for dimension in self.dimensions)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True, group=apart, **self.option)


class GP(SamplerProposer):
    """Gaussian process with Matérn kernel and logarithmic expected improvement, of hypervolume for several objectives.

    For small budgets of expensive candidates, since its own cost grows with their number; those of a generation that
    are still being evaluated are taken into account. Dimensions that only some candidates have are
    drawn at random.

    Options: `n_startup_trials` (random candidates before the model is used, default 10), `deterministic_objective`
    (fit no noise, default false).
    """

    name = "gp"
    generations_to_lead = 5
    options: ClassVar[Mapping[str, type]] = {"n_startup_trials": int, "deterministic_objective": bool}

    @classmethod
    def seconds(cls, dimensions: int, candidates: int) -> float:
        """As measured: see docs/search.md."""
        return 0.4 + 5e-5 * dimensions * candidates

    def _sampler(self, seed: int) -> BaseSampler:
        return GPSampler(seed=seed, **self.option)


class QMC(SamplerProposer):
    """Scrambled Sobol or Halton points, which cover the space more evenly than random ones and learn nothing.

    Options: `qmc_type` (`sobol`, the default, or `halton`).
    """

    name = "qmc"
    learns = False
    options: ClassVar[Mapping[str, type]] = {"qmc_type": str}

    def _start(self) -> None:
        kind = self.option.get("qmc_type", "sobol")
        if kind not in ("sobol", "halton"):
            raise ConfigError(f"search.options.qmc_type: {unknown('sequence', kind, ('sobol', 'halton'))}")
        super()._start()

    def _sampler(self, seed: int) -> BaseSampler:
        return QMCSampler(scramble=True, seed=seed, **self.option)


class Random(SamplerProposer):
    """Uniform random search, the baseline of every search."""

    name = "random"
    fresh = True
    learns = False

    def _sampler(self, seed: int) -> BaseSampler:
        return RandomSampler(seed=seed)


class NSGA2(SamplerProposer):
    """NSGA-II (Deb et al. 2002): a genetic algorithm for a front of several objectives; with one, a plain one.

    Options: `crossover_prob` (default 0.9), `swapping_prob` (of each dimension in a crossover, default 0.5),
    `mutation_prob` (of each dimension, default one over their number).
    """

    name = "nsga2"
    min_population = 2
    options: ClassVar[Mapping[str, type]] = dict.fromkeys(("crossover_prob", "swapping_prob", "mutation_prob"), float)

    def _sampler(self, seed: int) -> BaseSampler:
        return NSGAIISampler(population_size=self.population, seed=seed, **self.option)


class NSGA3(NSGA2):
    """NSGA-III (Deb & Jain 2014): as NSGA-II, spread by reference directions; for more than three objectives.

    Options: `crossover_prob` (default 0.9), `swapping_prob` (of each dimension in a crossover, default 0.5),
    `mutation_prob` (of each dimension, default one over their number).
    """

    name = "nsga3"

    def _sampler(self, seed: int) -> BaseSampler:
        return NSGAIIISampler(population_size=self.population, seed=seed, **self.option)
