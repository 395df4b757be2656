"""Trials as values for people."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from evomerge.run.records import TrialRecord, generations_of
from evomerge.run.trial import TrialKind, TrialState

_DONE = TrialRecord(
    number=0, kind=TrialKind.CANDIDATE, name="candidate", state=TrialState.COMPLETE, generation=0, parameters={}
)


@given(st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=7), min_size=1, max_size=4))
def test_generations_are_summed_up_as_the_search_itself_does(fitness: list[list[float]]) -> None:
    records = [
        replace(_DONE, fitness=value, generation=generation)
        for generation, values in enumerate(fitness)
        for value in values
    ]
    best, middle = generations_of(records)
    assert best == tuple(max(max(values) for values in fitness[: count + 1]) for count in range(len(fitness)))
    assert middle == median(fitness[-1])


def test_without_a_generation_there_is_nothing_to_sum_up() -> None:
    assert generations_of([]) == ((), None)
    assert generations_of([replace(_DONE, fitness=None)]) == ((), None)
