"""How numbers, sizes and times are written."""

from __future__ import annotations

import pytest

from evomerge.score import numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "40 ms"),
        (0.999, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (45, "45 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (60 * 60 * 72, "3.0 days"),
    ],
)
def test_durations_carry_over_to_the_next_unit(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1200, "1.2 kB"),
        (999_700, "1.0 MB"),
        (16_060_522_496, "16.1 GB"),
        (2e15, "2000.0 TB"),
    ],
)
def test_sizes_are_decimal(num_bytes: float, text: str) -> None:
    assert numbers.size(num_bytes) == text


def test_scores_intervals_and_probabilities() -> None:
    assert numbers.score(0.123456) == "0.1235"
    assert numbers.score(None) == "–"
    assert numbers.interval(0.2, [0.1, 0.25]) == "0.200 [0.100, 0.250]"
    assert numbers.interval(0.1, [-0.1, 0.25], signed=True) == "+0.100 [-0.100, +0.250]"
    assert numbers.probability(0.0312) == "0.031"
    assert numbers.probability(1e-9) == "< 0.0001"
