"""How long a run still takes."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.run.plan import Plan

CONFIG = """
models: {base: b, experts: {x: x, y: y}}
benchmark: {tasks: [t]}
search: {evaluations: 100, scan: 4, shortlist: 3}
"""
ITEMS = {"benchmark": {"tasks": [{"items": {"search": 40, "validation": 40, "test": 80}}]}}


def plan(**facts: Any) -> Plan:
    return Plan.of(Config.from_yaml(CONFIG), {**ITEMS, **facts})


def test_what_is_left_goes_by_the_tokens_of_each_split_where_they_are_known() -> None:
    # 12 evaluations a minute on search items, 5 seconds each; half of the search is done.
    evaluations = {"search": 101 - 50, "validation": 3 + 1 + 3 + 1 + 2, "test": 3 + 2}
    by_items = plan().seconds_left("search", 50, 12.0)
    assert by_items == pytest.approx(5 * (evaluations["search"] + evaluations["validation"] + 2 * evaluations["test"]))
    # As many items, three times as long, on validation.
    by_tokens = plan(costs={"search": 1.0, "validation": 3.0, "test": 0.5}).seconds_left("search", 50, 12.0)
    assert by_tokens == pytest.approx(
        5 * (evaluations["search"] + 3 * evaluations["validation"] + 0.5 * evaluations["test"])
    )


def test_nothing_is_known_without_a_rate_or_in_another_phase() -> None:
    assert plan().seconds_left("search", 0, None) is None
    assert plan().seconds_left("workers", 0, 12.0) is None


def test_with_a_limit_of_items_the_number_of_candidates_goes_by_what_they_have_cost() -> None:
    text = CONFIG.replace("evaluations: 100", "block: 10, pruner: racing, budget: {items: 1000}")
    found = Plan.of(Config.from_yaml(text), ITEMS)
    # 40 items each, as long as nothing else is known.
    assert found.candidates({}) == 25
    assert found.candidates({"candidates": 8, "items": 160}) == 8 + (1000 - 160) // 20
    assert found.candidates({"candidates": 50, "items": 1000}) == 50
    assert plan().candidates({"candidates": 8, "items": 160}) == 100
