"""Phrases of screens and cards, word by word."""

from __future__ import annotations

import pytest

from evomerge.report.words import constraints_kept, earlier_results


def test_constraints_are_met_or_missed_split_by_split_in_their_order() -> None:
    splits = {"search": {"feasible": True, "violation": 0.0}, "test": {"feasible": False, "violation": 0.12345}}
    assert constraints_kept(["short", "near"], splits) == (
        "Its constraints (short, near) are met on the search items, missed by 0.123 in all on the test items."
    )


@pytest.mark.parametrize(("looks", "words"), [(2, "an earlier result"), (3, "2 earlier results")])
def test_the_present_look_is_not_an_earlier_result(looks: int, words: str) -> None:
    assert earlier_results(looks) == words
