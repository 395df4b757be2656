"""Rows are put into passes as cheaply as their lengths allow, each once, within the budget."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, combinations, pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evomerge.inference.batches import MASKED, Costs, batches, cost_of
from evomerge.inference.plan import count_work
from evomerge.inference.trie import Row
from evomerge.score.requests import LogLikelihoodRequest

CONFIG = {"hidden_size": 576, "intermediate_size": 1536}


def row(length: int, *, chain: bool = True, start: int = 0) -> Row:
    nothing = torch.zeros(0, dtype=torch.int64)
    ends = torch.full((length,), length)
    if not chain:
        ends[0] = 1
    return Row(
        prefix=None if not start else 0,
        start=start,
        tokens=torch.zeros(length, dtype=torch.int64),
        positions=torch.arange(start, start + length),
        ends=ends,
        reads=nothing,
        picks=nothing,
        wanted=nothing,
        slots=nothing,
    )


def divisions(count: int) -> Iterator[list[int]]:
    """All ways to divide so many rows in order, by the sizes of the parts."""
    if not count:
        yield []
    for first in range(1, count + 1):
        for rest in divisions(count - first):
            yield [first, *rest]


rows_of = st.lists(st.tuples(st.integers(2, 12), st.booleans()), min_size=1, max_size=8)


# Filled from the left, these take a pass more, or rows that are padded.
@example(drawn=[(8, False), (7, False), (7, False), (7, False), (6, False)], budget=24, a_pass=3.0, start=0)
@settings(deadline=None, max_examples=80)
@given(drawn=rows_of, budget=st.integers(1, 60), a_pass=st.floats(0.0, 40.0), start=st.sampled_from([0, 5]))
def test_no_division_in_order_is_cheaper(drawn: list[tuple[int, bool]], budget: int, a_pass: float, start: int) -> None:
    costs = Costs(attention=0.001, a_pass=a_pass)
    rows = sorted((row(length, chain=chain, start=start) for length, chain in drawn), key=lambda one: -one.length)
    found = batches(rows, budget, costs)
    assert sorted(map(id, (one for batch in found for one in batch))) == sorted(map(id, rows))
    assert all(len(batch) == 1 or len(batch) * batch[0].length <= budget for batch in found)
    assert all(batch[0].length == max(one.length for one in batch) for batch in found)
    # Where chains and rows that branch go together, all are planned as if they had a mask.
    mixed = not start and len({one.is_chain for one in rows}) > 1
    least = sum(cost_of(batch, costs) for batch in found) / (MASKED if mixed else 1)
    # All divisions are made of the same few batches.
    priced = {
        (start, stop): cost_of(rows[start:stop], costs)
        for start, stop in combinations(range(len(rows) + 1), 2)
        if stop - start == 1 or (stop - start) * rows[start].length <= budget
    }
    for sizes in divisions(len(rows)):
        other = list(pairwise(accumulate(sizes, initial=0)))
        if all(batch in priced for batch in other):
            assert least <= sum(priced[batch] for batch in other) + 1e-6


def test_one_row_that_branches_gives_no_mask_to_many_chains() -> None:
    rows = sorted([*(row(20) for _ in range(40)), row(19, chain=False)], key=lambda one: -one.length)
    found = batches(rows, 4000, Costs.of(CONFIG, "cpu"))
    assert sorted(len({one.is_chain for one in batch}) for batch in found) == [1] * len(found)
    # Alone it would cost a pass, which a few chains' masks don't.
    few = batches(rows[:3] + rows[-1:], 4000, Costs.of(CONFIG, "cpu"))
    assert [len(batch) for batch in few] == [4]


def test_padding_is_counted_and_worth_a_pass_to_a_wide_model() -> None:
    asked = [
        LogLikelihoodRequest((number, *range(1000, 1000 + 10 * (number % 4))), (answer,))
        for number in range(40)
        for answer in range(4)
    ]
    work = count_work(asked, CONFIG)
    costs = [one.cost for one in work.values()]
    assert costs == sorted(costs)
    assert all(one.padded >= one.tokens for one in work.values())
    full = count_work(asked, CONFIG | {"hidden_size": 16, "intermediate_size": 16})
    assert full["packed"].padded > work["packed"].padded >= work["packed"].tokens == full["packed"].tokens


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_pass_costs_small_models_the_most_tokens(device: str) -> None:
    small, large = (
        Costs.of({"hidden_size": size, "intermediate_size": 4 * size}, device).a_pass for size in (128, 4096)
    )
    assert small > large > 0
