"""COMO-CMA-ES against fronts that are known in closed form, and against plain CMA-ES."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.algorithms.como import COMO
from evomerge.algorithms.optuna_samplers import NSGA2
from evomerge.errors import ConfigError, MissingPackageError
from evomerge.space.base import Dimension, Genome
from evomerge.testing.searches import BOX, evolve, sphere

pytestmark = pytest.mark.slow

DIMENSIONS = tuple(Dimension(name=f"x{index}", low=0.0, high=2.0, initial=1.0) for index in range(5))
ENDS = np.full(5, 0.5), np.full(5, 1.5)


def two_spheres(genomes: list[Genome]) -> NDArray[np.float64]:
    """Minus the mean squared distances to both ends: what lies on the line between them is the front."""
    return np.array([[-float(np.mean((genome - end) ** 2)) for end in ENDS] for genome in genomes])


def hypervolume(fitness: NDArray[np.float64]) -> float:
    """Of two objectives, above (-1, -1), as a sum of rectangles."""
    volume, height = 0.0, 0.0
    for one, two in sorted((fitness + 1.0).clip(0.0).tolist(), reverse=True):
        volume, height = volume + one * max(0.0, two - height), max(height, two)
    return volume


def found(proposer: COMO | NSGA2, evaluations: int) -> NDArray[np.float64]:
    """Fitness of everything that was asked."""
    told: list[NDArray[np.float64]] = []
    while sum(map(len, told)) < evaluations:
        genomes = proposer.ask()
        told.append(two_spheres(genomes))
        proposer.tell(genomes, told[-1])
    return np.concatenate(told)[:evaluations]


def test_its_means_come_to_lie_on_the_front_and_spread_over_it() -> None:
    proposer = COMO(DIMENSIONS, seed=1, population=10, step_size=0.2, objectives=2, options={"points": 5})
    for _ in range(300):
        genomes = proposer.ask()
        proposer.tell(genomes, two_spheres(genomes))
    means = np.array([proposer._cube.genome(strategy.incumbent) for strategy in proposer._strategies])
    along = means.mean(axis=1)
    assert np.abs(means - along[:, None]).max() < 0.01
    assert ((along > 0.49) & (along < 1.51)).all()
    assert np.diff(np.sort(along)).min() > 0.1


def test_its_front_is_larger_than_that_of_a_genetic_algorithm() -> None:
    settings = {"population": 10, "step_size": 0.2, "objectives": 2}
    ours = [hypervolume(found(COMO(DIMENSIONS, seed=seed, **settings), 1000)) for seed in range(3)]
    theirs = [hypervolume(found(NSGA2(DIMENSIONS, seed=seed, **settings), 1000)) for seed in range(3)]
    assert min(ours) > max(theirs)


def test_units_of_an_objective_are_none_of_its_business() -> None:
    asked = []
    for factors in ((1.0, 1.0), (1.0, 1024.0)):
        proposer = COMO(DIMENSIONS, seed=2, population=8, step_size=0.2, objectives=2)
        asked.append(evolve(proposer, lambda genomes, by=factors: two_spheres(genomes) * by, 12))  # type: ignore[misc]
    assert np.array_equal(*np.array(asked))


def test_one_objective_is_climbed_by_one_strategy() -> None:
    proposer = COMO(BOX, seed=0, population=8, step_size=0.2)
    assert proposer.size == 8
    genomes = evolve(proposer, sphere(), 60)
    assert sphere()(genomes[-8:]).min() > -1e-3


def test_the_first_generation_has_the_means_of_all_and_starts_where_the_search_does() -> None:
    proposer = COMO(BOX, seed=0, population=8, step_size=0.2, objectives=2, options={"points": 4})
    assert proposer.size == 11
    first = proposer.ask()
    assert len(first) == 11
    assert np.allclose(first[0], [dimension.initial for dimension in BOX])
    assert len({genome.tobytes() for genome in first[:4]}) == 4


def test_no_points_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"search\.options\.points: expected at least 1 \(found 0\)"):
        COMO(BOX, seed=0, population=8, step_size=0.2, options={"points": 0})


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "comocma", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'evomerge\[como\]'"):
        COMO(BOX, seed=0, population=8, step_size=0.2)
