"""Which blocks of items candidates answer: the same for a generation, others in the next, every task in each."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.study.schedule import Schedule, stratified_blocks


def test_without_a_share_everybody_answers_all_blocks_in_their_order() -> None:
    schedule = Schedule(5)
    assert (schedule.share, schedule.is_fresh) == (5, False)
    assert [*schedule.order(3)] == [*schedule.order(None)] == [0, 1, 2, 3, 4]


@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 5), st.integers(0, 30))
def test_an_order_has_every_block_once_and_begins_with_the_common_ones(
    blocks: int, share: int, seed: int, generation: int
) -> None:
    schedule = Schedule(blocks, share=share, seed=seed)
    order = [*schedule.order(generation)]
    assert sorted(order) == [*range(blocks)]
    assert order[: schedule.common] == [*range(schedule.common)]
    assert order == [*Schedule(blocks, share=share, seed=seed).order(generation)]
    assert [*schedule.order(None)] == [*range(blocks)]


def test_generations_answer_other_blocks_each_about_as_often() -> None:
    schedule = Schedule(21, share=6, seed=1)
    drawn = Counter(block for generation in range(400) for block in schedule.order(generation)[:6])
    assert schedule.common == 1
    assert drawn[0] == 400
    # 100 expected of each, with a standard deviation of 9.
    assert all(60 < drawn[block] < 140 for block in range(1, 21))
    assert len({tuple(schedule.order(generation)[:6]) for generation in range(20)}) == 20
    assert schedule.order(3) != Schedule(21, share=6, seed=2).order(3)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=80), st.integers(1, 20), st.integers(0, 3))
def test_every_task_has_its_share_of_each_block(tasks: list[str], size: int, seed: int) -> None:
    blocks = stratified_blocks(tasks, size, seed)
    assert sorted(item for block in blocks for item in block) == [*range(len(tasks))]
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    for block in blocks:
        for task, count in Counter(tasks).items():
            found = sum(tasks[item] == task for item in block)
            # A stretch of places that are evenly spaced holds its share of them, but for one at each end of each task.
            assert abs(found - len(block) * count / len(tasks)) <= len(set(tasks)) + 1


@pytest.mark.parametrize("seed", range(3))
def test_items_of_one_task_come_in_random_order(seed: int) -> None:
    (block,) = stratified_blocks(["a"] * 200, 200, seed)
    assert abs(np.corrcoef(block, np.arange(200))[0, 1]) < 0.25
