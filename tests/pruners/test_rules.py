"""Successive halving against its definition, Wilcoxon's rule against Optuna's pruner."""

from __future__ import annotations

from itertools import product

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from scipy import stats

from evomerge.errors import ConfigError
from evomerge.pruners.base import Round
from evomerge.pruners.successive_halving import SuccessiveHalving
from evomerge.pruners.wilcoxon import Wilcoxon, _p_values


def test_each_rung_is_climbed_by_the_best_third() -> None:
    inside = np.random.default_rng(0).random((27, 400))
    at = Round(candidates=27, needed=13, items=400)
    left = []
    for items in range(10, 400, 10):
        going = SuccessiveHalving({}).survivors(inside[:, :items], at)
        means = inside[:, :items].mean(axis=1)
        assert means[going].min() > max([0.0, *means[~going]])
        inside = inside[going]
        left.append(len(inside))
        if len(inside) < 2:
            break
    # Rungs at 20, 60 and 180 items.
    assert left == [27] + [9] * 4 + [3] * 12 + [1]


def test_equals_of_the_last_one_kept_are_kept() -> None:
    scores = np.repeat([[1.0], [0.5], [0.5], [0.25]], 20, axis=1)
    at = Round(candidates=4, needed=2, items=100)
    assert SuccessiveHalving({"keep": 0.5}).survivors(scores, at).tolist() == [True, True, True, False]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_it_decides_as_optunas_wilcoxon_pruner_against_the_best_trial() -> None:
    generator, decisions = np.random.default_rng(1), set()
    for steps, items in product((1, 4), (2, 3, 5, 6, 8, 9, 14, 15, *range(16, 40, 2))):
        scores = generator.binomial(steps, [[0.7], [0.5]], (2, items)) / steps
        if scores[0].mean() <= scores[1].mean():
            continue
        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1))
        study.add_trial(
            create_trial(
                value=float(scores[0].mean()),
                params={"x": 0.0},
                distributions={"x": FloatDistribution(0.0, 1.0)},
                intermediate_values=dict(enumerate(map(float, scores[0]))),
            )
        )
        trial = study.ask()
        for step, score in enumerate(scores[1]):
            trial.report(float(score), step=step)
        going = Wilcoxon({}).survivors(scores, Round(candidates=2, needed=1, items=100))
        assert going.tolist() == [True, not trial.should_prune()]
        decisions.add(bool(going[1]))
    assert decisions == {True, False}


@pytest.mark.parametrize(
    ("pruner", "options", "message"),
    [
        (SuccessiveHalving, {"keep": 1.5}, "between 0 and 1"),
        (SuccessiveHalving, {"items": 2.5}, "whole number"),
        (Wilcoxon, {"p": -0.1}, "above 0"),
        (Wilcoxon, {"threshold": 0.1}, "threshold"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(
    pruner: type[SuccessiveHalving] | type[Wilcoxon], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"search\.pruner_options\..*{message}"):
        pruner(options)


@pytest.mark.parametrize("items", [2, 3, 8, 9, 14, 50, 51])
def test_wilcoxons_test_of_several_candidates_is_scipys_of_each(items: int) -> None:
    generator = np.random.default_rng(2)
    halves = generator.integers(-2, 3, (6, items)) / 2
    differences = np.sort(
        np.vstack([halves, generator.choice([-1.0, 1.0], (2, items)), generator.random((6, items)) - 0.5])
    )
    tests = [stats.wilcoxon(row, alternative="less", zero_method="zsplit") for row in differences]
    assert _p_values(differences).tolist() == pytest.approx([test.pvalue for test in tests], rel=1e-12)


def test_one_item_says_little() -> None:
    assert _p_values(np.array([[-1.0], [0.0], [1.0]])).tolist() == [0.5, 1.0, 1.0]
