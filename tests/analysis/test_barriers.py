"""Barriers of curves with known heights, by both conventions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.analysis.mode_connectivity import barrier

SHARES = [place / 10 for place in range(11)]


def test_a_parabola_has_a_quarter_of_its_bend_as_barrier_by_both_conventions() -> None:
    found = barrier(SHARES, [1.0 + 2.0 * at * (1 - at) for at in SHARES])
    assert (found.above_mean, found.above_chord) == (pytest.approx(0.5), pytest.approx(0.5))
    assert found.at_mean == found.at_chord == 0.5


def test_the_conventions_differ_by_half_the_difference_of_the_ends_on_a_straight_line() -> None:
    found = barrier(SHARES, [1.0 + 3.0 * at for at in SHARES])
    assert found.above_mean == pytest.approx(1.5)
    assert found.above_chord == pytest.approx(0.0, abs=1e-12)


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=12))
def test_barriers_are_never_negative_and_agree_where_the_ends_do(curve: list[float]) -> None:
    at = np.linspace(0, 1, len(curve)).tolist()
    found = barrier(at, curve)
    assert found.above_mean >= 0
    assert found.above_chord >= 0
    assert barrier(at, [-value for value in curve], higher_is_better=True) == found
    level = barrier(at, [*curve[:-1], curve[0]])
    assert level.above_mean == pytest.approx(level.above_chord, abs=1e-9)


def test_a_point_without_a_value_is_left_out_of_the_barrier() -> None:
    assert barrier([0, 0.5, 0.75, 1], [1, math.nan, 3, 1]).above_mean == 2
    assert math.isnan(barrier([0, 0.5, 1], [1, math.nan, 1]).above_mean)
