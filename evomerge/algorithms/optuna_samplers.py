"""Optuna's samplers as proposers, one generation at a time.

Optuna doesn't persist its samplers' generators, so each trial gets a fresh sampler seeded from the
run's seed and the trial's position: what is proposed then depends on the history alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from evomerge.algorithms.base import Proposer
from evomerge.space.base import DIMENSION_KINDS, DimensionKind, Genome
from evomerge.space.distributions import distribution_of
from evomerge.streams import derive


class _SamplerProposer(Proposer):
    """Asks one of Optuna's samplers through an in-memory study. The first genome is the initial point."""

    kinds: ClassVar[frozenset[DimensionKind]] = frozenset(DIMENSION_KINDS)
    conditional = True

    def _start(self) -> None:
        self._distributions = {dimension.name: distribution_of(dimension) for dimension in self.dimensions}
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(direction="maximize")
        optuna.logging.set_verbosity(verbosity)
        self._study.enqueue_trial({item.name: item.value(item.initial) for item in self.dimensions})
        self._trials: list[optuna.Trial] = []

    def _ask(self) -> list[Genome]:
        """Each candidate knows that those before it are still being evaluated."""
        self._trials = []
        genomes = []
        for _ in range(self.population):
            self._study.sampler = self._sampler(derive(self.seed, self.name, len(self._study.trials), bits=32))
            self._trials.append(self._study.ask())
            genomes.append(self._suggested(self._trials[-1]))
        return genomes

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
        for trial, (value,) in zip(self._trials, fitness, strict=True):
            self._study.tell(trial, float(value))

    def _sampler(self, seed: int) -> BaseSampler:
        raise NotImplementedError


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """A value of the distribution, through Optuna's public calls."""
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)


class TPE(_SamplerProposer):
    """Tree-structured Parzen estimator, multivariate, with constant liar (Bergstra et al. 2011).

    Options: `n_startup_trials` (random candidates before the model is used, default 10).
    """

    name = "tpe"
    options: ClassVar[Mapping[str, type]] = {"n_startup_trials": int}

    def _sampler(self, seed: int) -> BaseSampler:
        # Dimensions that only some candidates have are modelled apart.
        apart = any(dimension.condition is not None for dimension in self.dimensions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(seed=seed, multivariate=True, constant_liar=True, group=apart, **self.option)


class Random(_SamplerProposer):
    """Uniform random search, the baseline of every search."""

    name = "random"
    learns = False

    def _sampler(self, seed: int) -> BaseSampler:
        return RandomSampler(seed=seed)
