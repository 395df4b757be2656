"""Racing against closed forms of its evidence, and its error rate where all candidates are equal."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.pruners.base import Round
from evomerge.pruners.racing import Racing
from evomerge.pruners.standard_error import StandardError


def at(candidates: int, needed: int) -> Round:
    return Round(candidates=candidates, needed=needed, items=1000)


@pytest.mark.parametrize("candidates", [2, 5])
@pytest.mark.parametrize("delta", [0.05, 0.3])
def test_who_loses_every_item_is_out_when_the_e_value_says_so(candidates: int, delta: float) -> None:
    """The mixture over p from 1/2 to 1 of p^n / (1/2)^n is (2^(n + 1) - 1) / (n + 1)."""
    for items in range(1, 20):
        scores = np.ones((candidates, items))
        scores[-1] = 0.0
        out = (2 ** (items + 1) - 1) / (items + 1) >= (candidates - 1) / delta
        going = Racing({"delta": delta}).survivors(scores, at(candidates, 1))
        assert going.tolist() == [True] * (candidates - 1) + [not out]


def test_items_on_which_two_agree_say_nothing() -> None:
    scores = np.zeros((2, 10))
    scores[0, :7] = 1.0
    agreeing = np.hstack([scores, np.ones((2, 500))])
    for found in (scores, agreeing):
        assert Racing({}).survivors(found, at(2, 1)).tolist() == [True, False]


def test_as_many_rivals_as_are_needed_must_be_better() -> None:
    scores = np.ones((6, 30))
    scores[4:] = 0.0
    assert Racing({}).survivors(scores, at(6, 4)).tolist() == [True] * 4 + [False] * 2
    assert Racing({}).survivors(scores, at(6, 5)).all()


@pytest.mark.parametrize("pruner", [Racing, StandardError])
def test_those_that_are_needed_always_remain(pruner: type[Racing] | type[StandardError]) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        candidates, needed = int(generator.integers(2, 12)), int(generator.integers(1, 6))
        scores = (generator.random((candidates, 60)) < generator.random((candidates, 1))) * 1.0
        going = pruner({}).survivors(scores, at(candidates, needed))
        best = np.argsort(-scores.mean(axis=1), kind="stable")[:needed]
        assert going[best].all()


@pytest.mark.slow
def test_one_of_the_best_is_stopped_no_more_often_than_the_error_rate_says() -> None:
    """Three candidates that are all equal, looked at after each of 20 blocks: each belongs among the best one."""
    generator, delta, trials = np.random.default_rng(5), 0.3, 300
    stopped = 0
    for _ in range(trials):
        scores = (generator.random((3, 200)) < 0.5) * 1.0
        stopped += any(
            not Racing({"delta": delta}).survivors(scores[:, :end], at(3, 1))[0] for end in range(10, 201, 10)
        )
    # Three standard deviations above the rate would be chance once in 700 times; it does stop some.
    assert 0 < stopped <= trials * delta + 3 * (trials * delta * (1 - delta)) ** 0.5


def test_scores_that_are_not_right_or_wrong_are_compared_by_bets() -> None:
    """Bets of a share s on n differences of one size gain (1 + s)^n, whose mean is (2^(n + 1) - 1) / (n + 1)."""
    scores = np.zeros((2, 8))
    scores[0] = 0.25
    scores[0, 0] = 0.125
    gain = sum((1 + share / 2) * (1 + share) ** 7 for share in (np.arange(1000) + 0.5) / 1000) / 1000
    assert Racing({"delta": 1.01 / gain}).survivors(scores, at(2, 1)).tolist() == [True, False]
    assert Racing({"delta": 0.99 / gain}).survivors(scores, at(2, 1)).all()


def test_one_standard_error_behind_is_out() -> None:
    ahead, behind = np.zeros(20), np.zeros(20)
    ahead[:5] = 1.0
    behind[5:7] = 1.0
    differences = ahead - behind
    errors = float(differences.mean() / (differences.std(ddof=1) / 20**0.5))
    scores = np.array([behind, ahead])
    assert StandardError({"errors": errors * 0.999}).survivors(scores, at(2, 1)).tolist() == [False, True]
    assert StandardError({"errors": errors * 1.001}).survivors(scores, at(2, 1)).all()
    assert StandardError({"errors": 0.1, "items": 21}).survivors(scores, at(2, 1)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dleta": 0.1}, "dleta"),
        ({"delta": 0}, "above 0"),
        ({"delta": 1.0}, "between 0 and 1"),
        ({"delta": True}, "found True"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"search\.pruner_options\..*{message}"):
        Racing(options)
