"""Every registered algorithm keeps every law of search algorithms, and ones that don't are found out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import CmaEsSampler

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.base import Proposer
from evomerge.errors import ConfigError
from evomerge.space.base import Genome
from evomerge.testing import algorithm_laws
from evomerge.testing.algorithm_laws import Law
from evomerge.testing.searches import BOX
from helpers.algorithms import ByPath, Wandering
from helpers.laws import EVERY_LAW

# A Gaussian process takes a good part of a second for each candidate.
_NAMES = [pytest.param(name, marks=pytest.mark.slow if name == "gp" else ()) for name in PROPOSERS.names()]


@pytest.mark.parametrize("law", EVERY_LAW)
@pytest.mark.parametrize("name", _NAMES)
def test_every_algorithm_keeps_every_law(name: str, law: Law) -> None:
    algorithm = PROPOSERS.get(name)
    assert algorithm.name == name
    law(algorithm)


@pytest.mark.parametrize("law", EVERY_LAW)
def test_an_algorithm_of_another_package_that_takes_any_number_of_objectives_keeps_every_law(law: Law) -> None:
    law(Wandering)


@pytest.mark.parametrize("law", EVERY_LAW)
def test_a_sampler_by_its_import_path_keeps_every_law(law: Law) -> None:
    law(ByPath)


class Careless(Wandering):
    """Draws from the process-wide generator."""

    def _ask(self) -> list[Genome]:
        ends = np.array([(item.low, item.high) for item in self.dimensions])
        return list(np.random.uniform(ends[:, 0], ends[:, 1], (self.population, len(ends))))


class Boastful(Wandering):
    """Says that it learns."""

    learns = True


class Stuck(Wandering):
    """Asks the middle of the box only."""

    def _ask(self) -> list[Genome]:
        return [np.array([(item.low + item.high) / 2 for item in self.dimensions])] * self.population


class Stray(Wandering):
    """Leaves the box."""

    def _ask(self) -> list[Genome]:
        return [2 * genome for genome in super()._ask()]


class Skewed(Wandering):
    """Asks genomes with a dimension too few."""

    def _ask(self) -> list[Genome]:
        return [genome[1:] for genome in super()._ask()]


class Short(Wandering):
    """Asks one too few."""

    def _ask(self) -> list[Genome]:
        return super()._ask()[1:]


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Careless, algorithm_laws.asks_the_same_again_by_its_seed),
        (Careless, algorithm_laws.leaves_global_random_states_alone),
        (Careless, algorithm_laws.replays_what_was_told),
        (Boastful, algorithm_laws.learns_if_it_says_so),
        (Boastful, algorithm_laws.finds_more_than_random_search),
        (Stuck, algorithm_laws.goes_on_when_all_are_equally_fit),
        (Stuck, algorithm_laws.finds_more_than_random_search),
        (Stray, algorithm_laws.stays_inside_its_bounds),
        (Short, algorithm_laws.asks_as_many_as_the_population),
        (Skewed, algorithm_laws.asks_as_many_as_the_population),
    ],
)
def test_an_algorithm_that_breaks_a_law_is_found_out(broken: type[Proposer], law: Law) -> None:
    state = np.random.get_state()
    try:
        with pytest.raises((AssertionError, ValueError)):
            law(broken)
    finally:
        np.random.set_state(state)


def test_what_a_dimension_can_not_be_searched_with_names_those_that_can() -> None:
    with pytest.raises(
        ValueError,
        match=r"cma can't search this space: .*; use one that can: cma_lra, cma_margin, m2n2, tpe, .*, random$",
    ):
        PROPOSERS.get("cma")(BOX[:1], seed=0, population=8, step_size=0.2)


def test_a_whole_number_is_a_number() -> None:
    class Tuned(Wandering):
        """Has an option `rate`."""

        name = "tuned"
        options: ClassVar[Mapping[str, type]] = {"rate": float}

    settings: dict[str, Any] = {"seed": 0, "population": 8, "step_size": 0.2}
    assert Tuned(BOX, options={"rate": 1}, **settings).option == {"rate": 1}
    with pytest.raises(ConfigError, match=r"search\.options\.rate: expected a number \(found True\)"):
        Tuned(BOX, options={"rate": True}, **settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("optuna:optuna.samplers", r"expected optuna:package\.module:Class, such as"),
        ("optuna:optuna.samplers:Sampler", r"has no attribute 'Sampler'; is its package installed\?"),
        ("optuna:no_such_package:Sampler", r"No module named 'no_such_package'; is its package installed\?"),
        ("optuna:pathlib:Path", r"is no subclass of optuna\.samplers\.BaseSampler"),
        ("optuna:optuna.samplers:PartialFixedSampler", r"PartialFixedSampler takes no seed"),
    ],
)
def test_a_path_where_no_sampler_is_that_can_be_used_is_refused(name: str, message: str) -> None:
    assert name in PROPOSERS
    with pytest.raises(ConfigError, match=rf"^search\.algorithm: {name}: .*{message}"):
        PROPOSERS.get(name)


def test_a_sampler_by_its_path_has_the_options_of_its_constructor() -> None:
    settings: dict[str, Any] = {"seed": 0, "population": 8, "step_size": 0.2}
    sampler = PROPOSERS.get("optuna:optuna.samplers:CmaEsSampler")
    assert sampler.options["popsize"] is int
    assert sampler.options["lr_adapt"] is bool
    with pytest.raises(ConfigError, match=r"search\.options\.popsiz: .*Did you mean 'popsize'"):
        sampler(BOX, options={"popsiz": 8}, **settings)
    with pytest.raises(ConfigError, match=r"number of objectives: optuna:optuna\.samplers:CmaEsSampler takes 1, not 2"):
        sampler(BOX, objectives=2, **settings)
    with pytest.raises(ConfigError, match=r"search\.options: optuna:optuna\.samplers:GridSampler: .*search_space"):
        PROPOSERS.get("optuna:optuna.samplers:GridSampler")(BOX, **settings)


def test_what_a_sampler_by_its_path_remarks_about_itself_is_not_shown() -> None:
    settings: dict[str, Any] = {"seed": 0, "population": 8, "step_size": 0.2}
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.warns(ExperimentalWarning):
            CmaEsSampler(seed=0, lr_adapt=True)
        PROPOSERS.get("optuna:optuna.samplers:CmaEsSampler")(BOX, options={"lr_adapt": True}, **settings)
    assert not shown
