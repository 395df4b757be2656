"""Objectives and constraints as arithmetic: Deb's rule, units, references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.run.evaluation import Evaluation
from evomerge.score.goals import Bound, Goal, Goals
from evomerge.score.pareto import dominates, front

SCORES = st.floats(0, 1, width=32)


def evaluation(aims: tuple[float, ...], violation: float) -> Evaluation:
    return Evaluation(trial=0, split="search", score=0.5, aims=aims, violation=violation)


@given(st.lists(st.tuples(SCORES, SCORES, st.sampled_from((0.0, 0.001, 0.25, 3.0))), min_size=2, max_size=8))
def test_feasible_candidates_dominate_infeasible_ones_and_these_are_ordered_by_violation(
    candidates: list[tuple[float, float, float]],
) -> None:
    told = [evaluation((one, other), violation).told for one, other, violation in candidates]
    for mine, (_, _, my_violation) in zip(told, candidates, strict=True):
        for other, (_, _, other_violation) in zip(told, candidates, strict=True):
            assert mine is not None
            assert other is not None
            if my_violation < other_violation:
                assert dominates(mine, other)
    least = min(violation for *_, violation in candidates)
    best = front(np.array(told))
    assert {candidates[place][2] for place in np.flatnonzero(best)} == {least}


def test_objectives_are_signed_and_weighted() -> None:
    measured = {"sw": 0.5, "tokens": 40.0}
    several = Goals(goals=(Goal(name="sw"), Goal(name="tokens", kind="length")))
    assert (several.count, several.aims(measured)) == (2, (0.5, -40.0))
    summed = Goals(goals=(Goal(name="sw", weight=2.0), Goal(name="tokens", kind="length", weight=0.01)))
    assert (summed.count, summed.aims(measured)) == (1, pytest.approx((0.6,)))
    single = Goals(goals=(Goal(name="tokens", kind="length"),))
    assert (single.count, single.aims(measured)) == (1, (-40.0,))
    assert (Goals().count, Goals().aims(measured)) == (1, ())


@pytest.mark.parametrize(
    ("bound", "value", "reference", "violation"),
    [
        (Bound(name="x", at_least=0.6), 0.5, None, 0.1),
        (Bound(name="x", at_least=0.6), 0.6, None, 0.0),
        (Bound(name="x", at_most=0.6), 0.75, None, 0.15),
        (Bound(name="x", worse_by=0.01, than="base"), 0.7, 0.71, 0.0),
        (Bound(name="x", worse_by=0.01, than="base"), 0.7, 0.75, 0.04),
        (Bound(name="x", worse_by=0.01, than="base"), 0.7, None, 0.0),
        (Bound(name="x", kind="length", at_most=100.0), 150.0, None, 0.5),
        (Bound(name="x", kind="length", worse_by=10.0, than="base"), 110.0, 100.0, 0.0),
        (Bound(name="x", kind="length", worse_by=0.0, than="base"), 110.0, 100.0, 0.1),
    ],
)
def test_a_violation_is_how_far_a_value_is_on_the_wrong_side(
    bound: Bound, value: float, reference: float | None, violation: float
) -> None:
    assert bound.violation(value, reference) == pytest.approx(violation, abs=1e-9)
    goals = Goals(bounds=(bound, Bound(name="y", at_least=0.5)))
    measured = {"x": value, "y": 0.25}
    known = {} if reference is None else {"x": reference}
    assert goals.violation(measured, lambda name: known) == pytest.approx(violation + 0.25)


@given(SCORES, SCORES)
def test_a_model_never_violates_a_constraint_against_itself(value: float, slack: float) -> None:
    assert Bound(name="x", worse_by=slack, than="base").violation(value, value) == 0.0
