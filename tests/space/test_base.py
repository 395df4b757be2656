"""Dimensions of every kind: what is refused, what the ledger records, and which of them matter where."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from evomerge.config.config import Config
from evomerge.errors import ConfigError, UnknownNameError
from evomerge.space.base import Condition, Dimension, active, check_dimensions, settled
from evomerge.space.distributions import distribution_of
from helpers.spaces import space_of

METHOD = Dimension.categorical("method", ("linear", "ties", "dare"), initial="ties")
SPARSE = Condition(dimension="method", values=("ties", "dare"))
DENSITY = Dimension(name="density", low=0.1, high=1.0, initial=0.5, condition=SPARSE)
DRAWS = Dimension(name="draws", kind="integer", low=1, high=3, initial=1, condition=SPARSE)
SPREAD = Dimension(name="spread", low=0.0, high=1.0, initial=0.0, condition=Condition(dimension="draws", values=(2, 3)))


def dimension(**changes: Any) -> Dimension:
    return Dimension(**{"name": "x", "low": 0.0, "high": 1.0, "initial": 0.5, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dimension(low=1.0), "dimension 'x': low 1 is not below high 1"),
        (lambda: dimension(high=float("inf")), "low 0 is not below high inf"),
        (lambda: dimension(initial=2.0), "initial 2 is no continuous value from 0 to 1"),
        (lambda: dimension(kind="integer", high=2.5, initial=1), "bounds of whole numbers are whole"),
        (lambda: dimension(kind="integer", high=2.0, initial=0.5), "initial 0.5 is no integer value from 0 to 2"),
        (lambda: dimension(kind="whole"), "unknown kind of dimension 'whole'"),
        (lambda: dimension(choices=("a", "b")), "choices belong to a categorical dimension"),
        (lambda: dimension(kind="categorical"), "choices belong to a categorical dimension"),
        (lambda: dimension(kind="categorical", choices=("a", "b", "c"), initial=0), "bounds 0 to 2"),
        (lambda: Dimension.categorical("x", ("a",), initial="a"), "at least 2 choices"),
        (lambda: Dimension.categorical("x", ("a", "a"), initial="a"), "the same choice twice in a, a"),
        (lambda: Dimension.categorical("x", ("ties", "dare"), initial="tie"), "Did you mean 'ties'"),
    ],
)
def test_a_dimension_that_makes_no_sense_is_refused(make: Callable[[], Dimension], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ([DRAWS, METHOD], "'draws': depends on 'method', which is no dimension before it"),
        ([METHOD, METHOD], "'method': there are two of that name"),
        (
            [dimension(), dimension(name="y", condition=Condition(dimension="x", values=(1,)))],
            "'y': depends on 'x', which is continuous",
        ),
        (
            [METHOD, dimension(condition=Condition(dimension="method", values=("slerp",)))],
            "'x': depends on 'method' being 'slerp', which it can't be",
        ),
        (
            [METHOD, DRAWS, dimension(condition=Condition(dimension="draws", values=(4,)))],
            "'x': depends on 'draws' being 4, which it can't be",
        ),
    ],
)
def test_conditions_that_can_never_be_met_are_refused(dimensions: list[Dimension], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_dimensions(dimensions)


@pytest.mark.parametrize(
    ("genome", "matters"),
    [
        ([0, 0.5, 2, 0.5], [True, False, False, False]),
        ([1, 0.5, 1, 0.5], [True, True, True, False]),
        ([2, 0.5, 3, 0.5], [True, True, True, True]),
    ],
)
def test_a_dimension_matters_where_all_it_depends_on_does(genome: list[float], matters: list[bool]) -> None:
    dimensions = [METHOD, DENSITY, DRAWS, SPREAD]
    check_dimensions(dimensions)
    point = np.array(genome)
    assert active(dimensions, point) == matters
    low = [item.low for item in dimensions]
    expected = [
        value if named else low[index] for index, (value, named) in enumerate(zip(genome, matters, strict=True))
    ]
    np.testing.assert_array_equal(settled(dimensions, point), expected)


@given(st.integers(0, 2))
def test_a_choice_is_recorded_by_its_name(place: int) -> None:
    assert METHOD.value(float(place)) == ("linear", "ties", "dare")[place]
    assert METHOD.coordinate(METHOD.value(float(place))) == place
    with pytest.raises(ConfigError, match="unknown choice 'slerp'"):
        METHOD.coordinate("slerp")


def test_whole_numbers_are_recorded_as_such_and_nothing_else_is_contained() -> None:
    assert isinstance(DRAWS.value(2.0), int)
    assert [DRAWS.contains(value) for value in (1.0, 3.0, 2.5, 4.0, float("nan"))] == [True, True, False, False, False]
    assert [METHOD.contains(value) for value in (0.0, 2.0, 1.5, -1.0)] == [True, True, False, False]


def test_every_kind_of_dimension_has_its_distribution() -> None:
    assert distribution_of(DENSITY) == FloatDistribution(0.1, 1.0)
    assert distribution_of(DRAWS) == IntDistribution(1, 3)
    assert distribution_of(METHOD) == CategoricalDistribution(("linear", "ties", "dare"))


def test_a_kind_of_space_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown search space 'coeficients'\. Did you mean 'coefficients'"):
        space_of("coeficients")


def test_the_kind_of_space_belongs_to_a_runs_identity_only_where_it_is_another() -> None:
    data: dict[str, Any] = {"models": {"base": "a", "experts": {"x": "b"}}, "benchmark": {"tasks": ["t"]}}
    plain = Config.from_data(data)
    assert "kind" not in plain.identity()["space"]
    assert Config.from_data({**data, "space": {"kind": "coefficients"}}).identity() == plain.identity()
    assert Config.from_data({**data, "space": {"kind": "layers"}}).identity()["space"]["kind"] == "layers"
