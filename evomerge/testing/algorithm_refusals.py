"""What every search algorithm must refuse: laws like those of `algorithm_laws`, which has them among its own."""

from __future__ import annotations

import numpy as np

from evomerge.algorithms.base import Proposer
from evomerge.errors import ConfigError, ShapeError
from evomerge.testing.expecting import refused
from evomerge.testing.searches import BOX, POPULATION, SPACES, evolve, make, searched, sphere


def refuses_what_is_out_of_turn(algorithm: type[Proposer]) -> None:
    """Asking twice and telling unasked are errors, after which the search goes on as if they hadn't been."""
    proposer, undisturbed = make(algorithm), make(algorithm)
    refused(RuntimeError, "told before asking", lambda: proposer.tell([], np.zeros((0, 1))))
    for _ in range(3):
        genomes = proposer.ask()
        refused(RuntimeError, "asked twice in a row", proposer.ask)
        proposer.tell(genomes, sphere()(genomes))
        refused(RuntimeError, "told before asking", lambda told=genomes: proposer.tell(told, sphere()(told)))  # type: ignore[misc]
    evolve(undisturbed, sphere(), 3)
    assert np.array_equal(np.array(proposer.ask()), np.array(undisturbed.ask()))


def refuses_what_does_not_fit_the_generation(algorithm: type[Proposer]) -> None:
    """Other shapes, values that aren't finite and genomes outside the bounds are refused, and nothing is learnt."""
    proposer, undisturbed = make(algorithm), make(algorithm)
    genomes = proposer.ask()
    size, values = len(genomes), sphere()(genomes)
    expected = f"fitness: expected (candidates, objectives) = ({size}, 1), got "
    for wrong in (values[:, 0], values[:-1], np.hstack([values, values])):
        refused(ShapeError, f"{expected}{wrong.shape}", lambda wrong=wrong: proposer.tell(genomes, wrong))  # type: ignore[misc]
    expected = f"genomes told: expected (candidates, dimensions) = ({size}, 4), got "
    refused(ShapeError, f"{expected}({size - 1}, 4)", lambda: proposer.tell(genomes[:-1], values))
    refused(ShapeError, f"{expected}({size}, 3)", lambda: proposer.tell([genome[:3] for genome in genomes], values))
    refused(ShapeError, f"{expected}{size} genomes", lambda: proposer.tell([*genomes[:-1], genomes[0][:2]], values))
    for bad in (np.nan, np.inf, -np.inf):
        broken = values.copy()
        broken[3, 0] = bad
        refused(ValueError, "fitness must be finite", lambda broken=broken: proposer.tell(genomes, broken))  # type: ignore[misc]
    outside = [genome.copy() for genome in genomes]
    outside[-2][2] = 2.5
    refused(ValueError, "x2 = 2.5 is no continuous value from -1 to 2", lambda: proposer.tell(outside, values))
    proposer.tell(genomes, values)
    evolve(undisturbed, sphere(), 1)
    assert np.array_equal(np.array(proposer.ask()), np.array(undisturbed.ask()))


def refuses_what_it_does_not_declare(algorithm: type[Proposer]) -> None:
    """Dimensions, options, objectives and populations that it doesn't take are refused by name, before any asking."""
    for dimensions in SPACES:
        if dimensions not in searched(algorithm):
            strange = next(item for item in dimensions if item.kind not in algorithm.kinds or item.condition)
            refused(
                ConfigError, f"{algorithm.name} can't search this space: {strange.name} ", make, algorithm, dimensions
            )
    if algorithm.min_dimensions > 1:
        fewer = BOX[: algorithm.min_dimensions - 1]
        refused(ConfigError, f"at least {algorithm.min_dimensions} dimensions", make, algorithm, fewer)

    def build(**changes: object) -> Proposer:
        return algorithm(BOX, **{"seed": 0, "population": POPULATION, "step_size": 0.2, **changes})  # type: ignore[arg-type]

    least = algorithm.min_population
    refused(ConfigError, "search.population: ", lambda: build(population=least - 1))
    refused(ConfigError, "search.options.none_such: ", lambda: build(options={"none_such": 1}))
    for name in algorithm.options:
        refused(ConfigError, f"search.options.{name}: expected ", lambda name=name: build(options={name: [name]}))  # type: ignore[misc]
    beyond = [0] if algorithm.max_objectives is None else [0, algorithm.max_objectives + 1]
    for objectives in beyond:
        refused(ConfigError, f", not {objectives}", lambda objectives=objectives: build(objectives=objectives))  # type: ignore[misc]
