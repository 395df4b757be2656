"""The item table's compact form: exact for scores, in float32 for log-likelihoods."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.score.columns import decode, encode
from evomerge.score.table import ItemAnswers, ItemTable, TaskScores, joined

VALUES = st.one_of(
    st.lists(st.floats(allow_nan=False)),
    st.lists(st.integers(-(2**53), 2**53)),
    st.lists(st.booleans()),
    st.lists(st.tuples(st.text(), st.text()).map(list)),
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False), st.text())),
)


@given(VALUES)
def test_every_column_reads_back_exactly(values: list[Any]) -> None:
    assert list(decode(json.loads(json.dumps(encode(values))))) == values


def test_numbers_that_are_none_survive() -> None:
    found = decode(encode([0.5, math.nan, math.inf]))
    assert found[0] == 0.5
    assert math.isnan(found[1])
    assert found[2] == math.inf


@pytest.mark.parametrize(
    ("values", "kind"), [([1.0, 0.0, 1.0], "|u1"), ([1.0, -300.0], "<i4"), ([0.5, 0.25], "<f4"), ([0.1], "<f8")]
)
def test_numbers_take_the_smallest_type_that_holds_them(values: list[float], kind: str) -> None:
    assert encode(values)["type"] == kind


def test_a_table_reads_back_with_its_answers() -> None:
    answers = ItemAnswers.of([[-0.1, -7.25], []], [[], ["goat", "mto ụ"]], [15, 40])
    table = ItemTable(
        tasks={"t": TaskScores(items=("a", "b"), values={"bleu,none": (["x", "y"], ["ụ", ""])}, answers=answers)}
    )
    found = ItemTable.from_data(json.loads(json.dumps(table.to_data())), table.item_lists)
    assert found == table
    read = found.tasks["t"].answers
    assert read is not None
    assert read.log_likelihoods() == [[float(np.float32(-0.1)), -7.25], []]
    assert read.texts() == [[], ["goat", "mto ụ"]]
    assert read.tokens() == [15, 40]


def test_a_thousand_items_of_four_choices_take_about_their_log_likelihoods() -> None:
    generator = np.random.default_rng(0)
    logs = generator.normal(-20, 5, size=(1000, 4))
    right = tuple(float(value) for value in generator.integers(2, size=1000))
    shares = tuple(generator.random(1000).astype(np.float32).tolist())
    scores = TaskScores(
        items=tuple(f"{number:012x}" for number in range(1000)),
        values={"acc,none": right, "acc_norm,none": right},
        tie_break=shares,
        answers=ItemAnswers.of(logs.tolist(), [[]] * 1000, [80] * 1000),
    )
    written = json.dumps(ItemTable(tasks={"t": scores}).to_data())
    # 4 + 1 numbers of 4 bytes in base64, and little else.
    assert len(written) < 1.5 * 5 * 4 * 1000


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), min_size=1, max_size=20), st.booleans())
def test_blocks_of_items_put_together_are_the_table_of_all_of_them(dealt: list[tuple[str, int]], breaks: bool) -> None:
    def table(positions: list[int]) -> tuple[ItemTable, dict[str, list[int]]]:
        own = {task: [place for place in positions if dealt[place][0] == task] for task in "ab"}
        own = {task: places for task, places in own.items() if places}
        scores = {
            task: TaskScores(
                items=tuple(map(str, places)),
                values={"acc": tuple(map(float, places)), "f1": tuple((place, 1.0) for place in places)},
                tie_break=tuple(place / 100 for place in places) if breaks else None,
            )
            for task, places in own.items()
        }
        return ItemTable(tasks=scores), own

    blocks = [table([place for place, (_, of) in enumerate(dealt) if of == block]) for block in range(4)]
    found = joined([one for one, _ in blocks], [own for _, own in blocks])
    assert found.tasks == table([*range(len(dealt))])[0].tasks
