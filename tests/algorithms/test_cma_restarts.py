"""Restarts of CMA-ES: when, with which population, and that they replay and keep the laws."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from evomerge.algorithms.cma_es import CMAES, cma
from evomerge.algorithms.restarts import Restarts
from evomerge.errors import ConfigError
from evomerge.streams import stream
from evomerge.testing.algorithm_laws import Law
from evomerge.testing.searches import BOX, evolve, sphere
from helpers.algorithms import Bipop, Ipop
from helpers.laws import EVERY_LAW


def two_valleys(genomes: list[np.ndarray]) -> np.ndarray:
    """A valley around the start, and a deeper one elsewhere."""
    centres = (-float(np.sum((genome - 0.25) ** 2)) for genome in genomes)
    others = (1 - float(np.sum((genome - 1.5) ** 2)) for genome in genomes)
    return np.array([[max(pair)] for pair in zip(centres, others, strict=True)])


def sizes(proposer: CMAES, generations: int) -> list[int]:
    found = []
    for _ in range(generations):
        found.append(proposer.size)
        evolve(proposer, sphere(), 1)
    return found


@pytest.mark.parametrize("law", EVERY_LAW)
@pytest.mark.parametrize("algorithm", [Ipop, Bipop])
def test_a_search_that_starts_again_keeps_every_law(algorithm: type[CMAES], law: Law) -> None:
    law(algorithm)


def test_ipop_doubles_the_population_each_time() -> None:
    found = sizes(Ipop(BOX, seed=0, population=8, step_size=0.2), 120)
    runs = [found[0], *(after for before, after in pairwise(found) if after != before)]
    assert runs[:2] == [8, 16]
    assert all(after == 2 * before for before, after in pairwise(runs))
    assert found == sorted(found)


def test_bipop_gives_as_many_evaluations_to_small_populations() -> None:
    restarts = Restarts("bipop", population=8, step_size=0.2, least=2, generator=stream(0, "test"))
    spent, large = {True: 800, False: 0}, [8]
    run = restarts.next(800)
    for _ in range(200):
        is_large = run.most == np.inf
        if is_large:
            assert run.population == 2 * large[-1]
            large.append(run.population)
            if len(large) > 12:
                break
        else:
            assert 2 <= run.population <= max(8, large[-1] // 2)
            assert 0.002 <= run.step_size <= 0.2
        taken = 100 * run.population if is_large else int(min(run.most, 30 * run.population))
        spent[is_large] += taken
        run = restarts.next(taken)
    assert len(large) > 5
    assert spent[False] >= 0.4 * spent[True]


@pytest.mark.slow
def test_a_search_that_starts_again_leaves_a_local_optimum() -> None:
    best = {}
    for algorithm in (CMAES, Ipop, Bipop):
        proposer = algorithm(BOX, seed=1, population=8, step_size=0.05)
        asked: list[np.ndarray] = []
        while len(asked) < 2500:
            asked += evolve(proposer, two_valleys, 1)
        best[algorithm] = float(two_valleys(asked[:2500]).max())
        if algorithm is not CMAES:
            assert two_valleys([proposer.mean()]).max() > 0.9
    assert best[CMAES] <= 0
    assert min(best[Ipop], best[Bipop]) > 0.99


def test_a_run_ends_when_pycma_itself_would_end_it() -> None:
    proposer = Ipop(BOX, seed=7, population=10, step_size=0.2)
    normal = stream(7, "cma").standard_normal
    options = {"popsize": 10, "bounds": [0, 1], "randn": lambda *shape: normal(shape), "seed": np.nan, "verbose": -9}
    options |= {"tolflatfitness": np.inf, "tolfun": 0, "tolfunrel": 0}
    start = (np.array([item.initial for item in BOX]) + 1) / 3
    reference = cma.CMAEvolutionStrategy(start, 0.2, options | {"tolx": 1e-4})
    generations = 0
    while not reference.stop():
        points = reference.ask()
        reference.tell(points, (-sphere()([3 * np.array(point) - 1 for point in points])[:, 0]).tolist())
        generations += 1
    found = sizes(proposer, generations + 1)
    assert found == [10] * generations + [20]


def test_a_flat_function_ends_no_run_before_ten_generations() -> None:
    proposer = Ipop(BOX, seed=0, population=8, step_size=0.2)
    found = []
    for _ in range(30):
        found.append(proposer.size)
        evolve(proposer, lambda genomes: np.zeros((len(genomes), 1)), 1)
    assert min(found.count(size) for size in sorted({*found})[:-1]) >= 10
    assert len({*found}) > 1


def test_a_wrong_way_to_start_again_names_the_right_ones() -> None:
    with pytest.raises(ConfigError, match=r"search\.options\.restarts: .*'ipo'.*Did you mean 'ipop'"):
        CMAES(BOX, seed=0, population=8, step_size=0.2, options={"restarts": "ipo"})
