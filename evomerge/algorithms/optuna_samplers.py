"""Optuna's samplers as proposers, one generation at a time.

Optuna doesn't persist its samplers' generators, so each trial gets a fresh sampler seeded from the
run's seed and the trial's position: what is proposed then depends on the history alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from evomerge.errors import ConfigError, unknown
from evomerge.space.base import Dimension, Genome
from evomerge.streams import derive


class _SamplerProposer:
    """Asks one of Optuna's samplers through an in-memory study. The first genome is the initial point."""

    name: ClassVar[str]
    _options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        *,
        seed: int,
        population: int,
        step_size: float,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        for name in options or {}:
            if name not in self._options:
                raise ConfigError(f"search.options.{name}: {unknown(f'option of {self.name}', name, self._options)}")
        self.population = population
        self._seed = seed
        self._settings = dict(options or {})
        self._dimensions = tuple(dimensions)
        self._distributions: dict[str, BaseDistribution] = {
            dimension.name: FloatDistribution(dimension.low, dimension.high) for dimension in dimensions
        }
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(direction="maximize")
        optuna.logging.set_verbosity(verbosity)
        self._study.enqueue_trial({dimension.name: dimension.initial for dimension in dimensions})
        self._asked: list[optuna.Trial] | None = None

    def ask(self) -> list[Genome]:
        """The next generation; each candidate knows that those before it are still being evaluated."""
        if self._asked is not None:
            raise RuntimeError("asked twice in a row: tell the fitness of the generation asked before")
        self._asked = []
        for _ in range(self.population):
            self._study.sampler = self._sampler(derive(self._seed, self.name, len(self._study.trials), bits=32))
            self._asked.append(self._study.ask(self._distributions))
        return [np.array([trial.params[dimension.name] for dimension in self._dimensions]) for trial in self._asked]

    def tell(self, genomes: list[Genome], fitness: NDArray[np.float64]) -> None:
        """Record the generation in the sampler's study."""
        if self._asked is None:
            raise RuntimeError("told before asking")
        if not np.all(np.isfinite(fitness)):
            raise ValueError("fitness must be finite: decide what a failed candidate is worth before telling")
        for trial, value in zip(self._asked, fitness, strict=True):
            self._study.tell(trial, float(value))
        self._asked = None

    def mean(self) -> None:
        """These samplers have no distribution whose mean would be a candidate."""
        return None

    def _sampler(self, seed: int) -> BaseSampler:
        raise NotImplementedError


class TPE(_SamplerProposer):
    """Tree-structured Parzen estimator, multivariate, with constant liar (Bergstra et al. 2011).

    Options: `n_startup_trials` (random candidates before the model is used, default 10).
    """

    name = "tpe"
    _options = ("n_startup_trials",)

    def _sampler(self, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, multivariate=True, constant_liar=True, **self._settings)


class Random(_SamplerProposer):
    """Uniform random search, the baseline of every search."""

    name = "random"

    def _sampler(self, seed: int) -> BaseSampler:
        return RandomSampler(seed=seed)
