"""CMA-ES as a proposer: pycma's own run, replay, bounds and randomness."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from evomerge.algorithms.cma_es import CMAES, cma
from evomerge.algorithms.population import default_population
from evomerge.errors import ConfigError
from evomerge.space.base import Dimension
from evomerge.streams import stream
from helpers.patience import LONG_S


def box(number: int, low: float = -1.0, high: float = 3.0) -> list[Dimension]:
    return [Dimension(name=f"x{index}", low=low, high=high, initial=1.0) for index in range(number)]


def sphere(genomes: list[np.ndarray], optimum: float = 0.3) -> np.ndarray:
    return np.array([[-float(np.sum((genome - optimum) ** 2))] for genome in genomes])


def evolve(proposer: CMAES, generations: int) -> np.ndarray:
    asked = []
    for _ in range(generations):
        genomes = proposer.ask()
        asked += genomes
        proposer.tell(genomes, sphere(genomes))
    return np.array(asked)


def test_it_asks_what_pycma_itself_asks_in_the_unit_cube() -> None:
    proposer = CMAES(box(4), seed=7, population=10, step_size=0.2)
    normal = stream(7, "cma").standard_normal
    options = {"popsize": 10, "bounds": [0, 1], "randn": lambda *shape: normal(shape), "seed": math.nan}
    options |= {"verbose": -9, "tolflatfitness": math.inf, "tolfun": 0, "tolfunhist": 0}
    reference = cma.CMAEvolutionStrategy([0.5] * 4, 0.2, options)
    for _ in range(15):
        genomes, points = proposer.ask(), reference.ask()
        np.testing.assert_array_equal(np.array(genomes), -1.0 + 4.0 * np.array(points))
        fitness = sphere(genomes)
        proposer.tell(genomes, fitness)
        reference.tell(points, (-fitness[:, 0]).tolist())


def test_replay_through_json_is_bit_for_bit_and_ignores_global_random_state() -> None:
    np.random.seed(1)
    first = CMAES(box(6), seed=3, population=12, step_size=0.15)
    state = np.random.get_state()[1].copy()
    log = []
    for _ in range(10):
        genomes = first.ask()
        fitness = sphere(genomes)
        first.tell(genomes, fitness)
        log.append(json.dumps([[genome.tolist() for genome in genomes], fitness.tolist()]))
    np.testing.assert_array_equal(np.random.get_state()[1], state)

    np.random.seed(99)
    second = CMAES(box(6), seed=3, population=12, step_size=0.15)
    for line in log:
        logged, fitness = json.loads(line)
        np.testing.assert_array_equal(np.array(second.ask()), np.array(logged))
        second.tell([np.array(genome) for genome in logged], np.array(fitness))
    np.testing.assert_array_equal(np.array(first.ask()), np.array(second.ask()))
    np.testing.assert_array_equal(first.mean(), second.mean())


def test_it_finds_the_optimum_and_its_mean_lies_there() -> None:
    proposer = CMAES(box(5), seed=0, population=12, step_size=0.15)
    evolve(proposer, 60)
    np.testing.assert_allclose(proposer.mean(), 0.3, atol=0.01)


def test_every_genome_is_inside_its_bounds_even_when_the_optimum_is_outside() -> None:
    proposer = CMAES(box(3, low=0.5, high=1.5), seed=0, population=8, step_size=0.5)
    asked = evolve(proposer, 30)
    assert asked.min() >= 0.5
    assert asked.max() <= 1.5
    assert proposer.mean().min() >= 0.5


def test_a_flat_generation_does_not_end_the_search() -> None:
    proposer = CMAES(box(3), seed=0, population=8, step_size=0.2)
    for _ in range(30):
        proposer.tell(proposer.ask(), np.zeros((8, 1)))
    assert np.ptp(np.array(proposer.ask())) > 0


def test_asking_twice_or_telling_nan_is_refused() -> None:
    proposer = CMAES(box(3), seed=0, population=8, step_size=0.2)
    genomes = proposer.ask()
    with pytest.raises(RuntimeError, match="asked twice"):
        proposer.ask()
    with pytest.raises(ValueError, match="finite"):
        proposer.tell(genomes, np.array([[math.nan]] * 8))


def test_an_unknown_option_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"search.options.activ: .*Did you mean 'active'"):
        CMAES(box(3), seed=0, population=8, step_size=0.2, options={"activ": True})


@pytest.mark.parametrize(("dimensions", "evaluations", "items"), [(2, 10, 10), (20, 600, 100), (120, 5000, 50)])
def test_default_population_fills_eight_workers_and_leaves_room_for_generations(
    dimensions: int, evaluations: int, items: int
) -> None:
    population = default_population(dimensions, evaluations, items)
    assert population % 8 == 0
    assert population == 8 or evaluations / population >= 8


@pytest.mark.slow
def test_libraries_that_pycma_can_do_without_are_not_loaded_for_it_and_can_be_later() -> None:
    code = (
        "import sys, evomerge.algorithms.cma_es as found\n"
        "assert not {'matplotlib', 'scipy.stats'} & sys.modules.keys(), sorted(sys.modules)\n"
        "import scipy.stats\n"
        "assert scipy.stats.kendalltau([1, 2, 3], [1, 2, 3]).statistic == 1\n"
        "assert found.cma.fitness_models.kendall_tau([1, 2, 3], [3, 2, 1]) == -1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LONG_S)
