"""Optuna's samplers as proposers: replay, start and bounds."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.optuna_samplers import TPE, Random
from evomerge.errors import ConfigError
from evomerge.space.base import Dimension

BOX = [Dimension(name=f"x{index}", low=-1.0, high=2.0, initial=0.25) for index in range(4)]


def evolve(proposer: TPE | Random, generations: int) -> np.ndarray:
    asked = []
    for _ in range(generations):
        genomes = proposer.ask()
        asked += genomes
        proposer.tell(genomes, np.array([[-float(np.sum((genome - 1.0) ** 2))] for genome in genomes]))
    return np.array(asked)


@pytest.mark.parametrize("algorithm", [TPE, Random])
def test_the_same_seed_and_fitness_give_the_same_genomes(algorithm: type[TPE] | type[Random]) -> None:
    first = evolve(algorithm(BOX, seed=5, population=6, step_size=0.1), 5)
    second = evolve(algorithm(BOX, seed=5, population=6, step_size=0.1), 5)
    other = evolve(algorithm(BOX, seed=6, population=6, step_size=0.1), 5)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("algorithm", [TPE, Random])
def test_the_first_genome_is_the_initial_point_and_all_are_inside(algorithm: type[TPE] | type[Random]) -> None:
    asked = evolve(algorithm(BOX, seed=0, population=6, step_size=0.1), 4)
    np.testing.assert_array_equal(asked[0], [0.25] * 4)
    assert asked.min() >= -1.0
    assert asked.max() <= 2.0
    assert len({tuple(genome) for genome in asked}) == len(asked)


def test_tpe_learns_from_what_it_is_told() -> None:
    asked = evolve(TPE(BOX, seed=0, population=5, step_size=0.1), 20)
    distance = np.sum((asked - 1.0) ** 2, axis=1)
    assert distance[-20:].mean() < 0.5 * distance[:20].mean()


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.options\.startup"):
        PROPOSERS.get(name)(BOX, seed=0, population=5, step_size=0.1, options={"startup": 3})
