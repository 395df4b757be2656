"""What every search algorithm must keep: one function per law, each taking the algorithm's class.

```python
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_my_algorithm(law):
    law(MyAlgorithm)
```
The class must be importable by its module and name, since one law asks it in other processes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from evomerge.algorithms.base import Proposer
from evomerge.space.base import Genome, settled
from evomerge.streams import stream
from evomerge.testing.algorithm_refusals import (
    refuses_what_does_not_fit_the_generation,
    refuses_what_is_out_of_turn,
    refuses_what_it_does_not_declare,
)
from evomerge.testing.expecting import refused
from evomerge.testing.searches import (
    BOX,
    POPULATION,
    digest,
    enough,
    evolve,
    evolve_steadily,
    is_quick,
    make,
    population_of,
    richest,
    searched,
    sphere,
)

Law = Callable[[type[Proposer]], None]


def declares_what_it_takes(algorithm: type[Proposer]) -> None:
    """It has a name and a description that mentions every option, and can search something."""
    assert algorithm.name
    assert algorithm.__doc__
    assert all(f"`{name}`" in algorithm.__doc__ for name in algorithm.options)
    assert all(kind in {bool, int, float, str} for kind in algorithm.options.values())
    assert searched(algorithm)
    assert algorithm.min_dimensions >= 1
    assert algorithm.min_population >= 1


def asks_as_many_as_the_population(algorithm: type[Proposer]) -> None:
    """Any population that it takes is that many genomes, generation after generation.

    One whose generations vary asks as many as it says before.
    """
    for population in (algorithm.min_population, 5, 2 * population_of(algorithm)):
        proposer = make(algorithm, population=population)
        for _ in range(3):
            size = proposer.size
            assert size == population or (algorithm.varies and size >= 1)
            assert len(evolve(proposer, sphere(), 1)) == size
        assert len(proposer.ask()) == proposer.size


def asks_the_same_again_by_its_seed(algorithm: type[Proposer]) -> None:
    """The seed decides what is asked, and another one asks otherwise."""
    first, again, other = (
        np.array(evolve(make(algorithm, seed=seed), sphere(), enough(algorithm, 4))) for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def asks_the_same_in_any_process(algorithm: type[Proposer]) -> None:
    """Other processes with other hash seeds ask the same to the last bit: no order of a set comes in."""
    script = "import sys, importlib; from evomerge.testing.searches import digest; "
    script += "print(digest(getattr(importlib.import_module(sys.argv[1]), sys.argv[2])))"
    command = [sys.executable, "-W", "ignore", "-c", script, algorithm.__module__, algorithm.__name__]
    path = os.pathsep.join(folder for folder in sys.path if folder)
    expected = digest(algorithm)
    for hash_seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == expected, hash_seed


def replays_what_was_told(algorithm: type[Proposer]) -> None:
    """Rebuilt from a record that went through JSON, it asks the same next, and has the same mean."""
    for dimensions in richest(algorithm):
        first, fitness, record = make(algorithm, dimensions), sphere(dimensions), []
        for _ in range(enough(algorithm, 5)):
            genomes = first.ask()
            values = fitness(genomes)
            first.tell(genomes, values)
            record.append(json.dumps([[genome.tolist() for genome in genomes], values.tolist()]))
        second = make(algorithm, dimensions)
        for line in record:
            genomes, values = json.loads(line)
            assert np.array_equal(np.array(second.ask()), np.array(genomes))
            second.tell([np.array(genome) for genome in genomes], np.array(values))
        assert np.array_equal(np.array(first.ask()), np.array(second.ask()))
        one, other = first.mean(), second.mean()
        assert (one is None) == (other is None)
        assert one is None or other is None or np.array_equal(one, other)


def leaves_global_random_states_alone(algorithm: type[Proposer]) -> None:
    """Neither asking nor telling draws from or seeds a process-wide generator."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    found = []
    try:
        for seed in (1, 99):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            states = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()
            found.append(digest(algorithm))
            assert random.getstate() == states[0]
            assert repr(np.random.get_state()) == states[1]
            assert torch.equal(torch.get_rng_state(), states[2])
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
    assert found[0] == found[1]


def stays_inside_its_bounds(algorithm: type[Proposer]) -> None:
    """Whatever it learns, each genome and the mean have values that their dimensions contain.

    What doesn't matter at a point is at its low end there.
    """
    for dimensions in searched(algorithm):
        for optimum in (-1.0, 2.0):
            proposer = make(algorithm, dimensions)
            start = proposer.mean()
            found = evolve(proposer, sphere(dimensions, optimum=optimum), enough(algorithm, 6))
            means = [mean for mean in (start, proposer.mean()) if mean is not None]
            for genome in (*found, *means):
                assert genome.dtype == np.float64
                assert all(item.contains(value) for item, value in zip(dimensions, genome, strict=True)), genome
                assert np.array_equal(settled(dimensions, genome), genome)


def keeps_no_hold_of_what_it_gave_or_was_given(algorithm: type[Proposer]) -> None:
    """Genomes and fitness are the caller's: not changed by telling, and free to be written over afterwards."""
    careful, careless = make(algorithm), make(algorithm)
    for _ in range(4):
        genomes, others = careful.ask(), careless.ask()
        assert np.array_equal(np.array(genomes), np.array(others))
        values = sphere()(others)
        copies = [genome.copy() for genome in others], values.copy()
        careless.tell(others, values)
        assert np.array_equal(np.array(others), np.array(copies[0]))
        assert np.array_equal(values, copies[1])
        careful.tell(genomes, copies[1])
        for array in (*others, values):
            array.fill(7.0)


def takes_every_number_of_objectives_that_it_declares(algorithm: type[Proposer]) -> None:
    """Fitness of as many columns as objectives is learnt from."""
    for objectives in range(1, 1 + (algorithm.max_objectives or 3)):
        proposer = make(algorithm, objectives=objectives)
        for _ in range(enough(algorithm, 4)):
            size = proposer.size
            assert len(evolve(proposer, sphere(objectives=objectives), 1)) == size


def learns_if_it_says_so(algorithm: type[Proposer]) -> None:
    """Told the opposite, an algorithm that learns asks otherwise, and one that doesn't asks the same."""
    generations, size = enough(algorithm, 4), population_of(algorithm)
    told = [np.array(evolve(make(algorithm), sphere(factor=factor), generations)) for factor in (1.0, -1.0)]
    assert np.array_equal(told[0][:size], told[1][:size])
    assert np.array_equal(told[0], told[1]) != algorithm.learns


def learns_from_others_if_it_says_so(algorithm: type[Proposer]) -> None:
    """Told of another genome in the place of one that it asked, it learns from it, inside its bounds, and a replay asks
    the same. One that doesn't declare it is never told of any.
    """
    if not algorithm.takes_others:
        return
    other = np.array([0.9 * item.high + 0.1 * item.low for item in BOX])

    def asked(*, replaced: bool) -> Genome:
        proposer, found = make(algorithm), []
        for _ in range(enough(algorithm, 6)):
            genomes = proposer.ask()
            found += [genome.copy() for genome in genomes]
            if replaced:
                genomes[-1] = other
            proposer.tell(genomes, sphere()(genomes))
        return np.array(found)

    guided = asked(replaced=True)
    assert np.array_equal(guided, asked(replaced=True))
    assert not np.array_equal(guided, asked(replaced=False))
    assert all(item.contains(value) for genome in guided for item, value in zip(BOX, genome, strict=True))


def goes_on_when_all_are_equally_fit(algorithm: type[Proposer]) -> None:
    """On a flat fitness it still asks different genomes: a coarse score doesn't end the search."""
    proposer = make(algorithm)
    evolve(proposer, lambda genomes: np.zeros((len(genomes), 1)), enough(algorithm, 25))
    asked = np.array(proposer.ask())
    assert len(np.unique(asked, axis=0)) == len(asked)
    assert bool((np.ptp(asked, axis=0) > 0).all())


def does_not_depend_on_the_units_of_fitness(algorithm: type[Proposer]) -> None:
    """Four times the fitness is the same search."""
    generations = enough(algorithm, 5)
    told = [np.array(evolve(make(algorithm), sphere(factor=factor), generations)) for factor in (1.0, 4.0)]
    np.testing.assert_allclose(told[0], told[1], rtol=1e-9)


def does_not_depend_on_the_units_of_dimensions(algorithm: type[Proposer]) -> None:
    """Bounds and start in other units ask the same points in those units."""
    wide = tuple(replace(item, low=4 * item.low, high=4 * item.high, initial=4 * item.initial) for item in BOX)
    generations = enough(algorithm, 5)
    asked = np.array(evolve(make(algorithm), sphere(), generations))
    again = np.array(evolve(make(algorithm, wide), sphere(wide), generations))
    np.testing.assert_allclose(again, 4 * asked, rtol=1e-9)


def finds_more_than_random_search(algorithm: type[Proposer]) -> None:
    """On a sphere, the median over seeds is well below that of uniform draws if it learns.

    After 160 candidates and as many draws; if it declares that it is slow, more of both, and if it declares that it is
    quick, fewer candidates. One that doesn't learn is as good as uniform draws, within the spread of the seeds.
    """
    seeds, fitness, generations = range(5), sphere(), algorithm.generations_to_lead

    def best(genomes: list[Genome]) -> float:
        return float(-fitness(genomes).max())

    low, high = ([getattr(item, end) for item in BOX] for end in ("low", "high"))
    draws = max(generations, Proposer.generations_to_lead) * POPULATION
    uniform = [best(list(stream(seed, "uniform").uniform(low, high, (draws, len(BOX))))) for seed in seeds]
    found = [best(evolve(make(algorithm, seed=seed, population=POPULATION), fitness, generations)) for seed in seeds]
    limit = 0.5 * np.median(uniform) if algorithm.learns else 1.5 * max(uniform)
    assert np.median(found) <= limit, (found, uniform)


def takes_results_one_at_a_time_if_it_says_so(algorithm: type[Proposer]) -> None:
    """With several candidates in flight that end in any order, it keeps its bounds, and a replay asks the same.

    One that doesn't declare it refuses.
    """
    if not algorithm.asynchronous:
        refused(RuntimeError, "can't be asked for one candidate at a time", make(algorithm).ask_one)
        return
    count = (2 if is_quick(algorithm) else 3) * POPULATION
    for dimensions in richest(algorithm):
        first, second = make(algorithm, dimensions), make(algorithm, dimensions)
        turns = evolve_steadily(first, sphere(dimensions), count)
        for number, genome, told in turns:
            assert all(item.contains(value) for item, value in zip(dimensions, genome, strict=True)), genome
            recorded = np.array(json.loads(json.dumps(genome.tolist())))
            if told is not None:
                second.tell_one(number, recorded, np.array(json.loads(json.dumps(told.tolist()))))
                continue
            again, asked = second.ask_one()
            assert (again, asked.tolist()) == (number, recorded.tolist())
        one, other = first.mean(), second.mean()
        assert one is None or other is None or np.array_equal(one, other)
        assert len({number for number, _, told in turns if told is None}) == count
        refused(RuntimeError, "after candidates were asked one at a time", first.ask)
        number, genome = turns[0][:2]
        refused(RuntimeError, "isn't waiting for its fitness", second.tell_one, number, genome, np.zeros(1))
    told_otherwise = [evolve_steadily(make(algorithm), sphere(factor=factor), count) for factor in (1.0, -1.0)]
    same = [[genome.tolist() for _, genome, _ in turns] for turns in told_otherwise]
    assert (same[0] != same[1]) == algorithm.learns
    ended = make(algorithm)
    for number, genome in reversed([ended.ask_one() for _ in range(count)]):
        # The end of a search: many are told, and nothing is asked between.
        ended.tell_one(number, genome, sphere()([genome])[0])
    assert len(ended.ask_one()[1]) == len(BOX)


LAWS: tuple[Law, ...] = (
    declares_what_it_takes,
    asks_as_many_as_the_population,
    asks_the_same_again_by_its_seed,
    asks_the_same_in_any_process,
    replays_what_was_told,
    leaves_global_random_states_alone,
    stays_inside_its_bounds,
    keeps_no_hold_of_what_it_gave_or_was_given,
    refuses_what_is_out_of_turn,
    refuses_what_does_not_fit_the_generation,
    refuses_what_it_does_not_declare,
    takes_every_number_of_objectives_that_it_declares,
    learns_if_it_says_so,
    learns_from_others_if_it_says_so,
    goes_on_when_all_are_equally_fit,
    does_not_depend_on_the_units_of_fitness,
    does_not_depend_on_the_units_of_dimensions,
    finds_more_than_random_search,
    takes_results_one_at_a_time_if_it_says_so,
)
"""Everything that is expected of a search algorithm on arrival."""
