"""The median stopping rule against its definition and against Optuna's pruner of that name."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from evomerge.errors import ConfigError
from evomerge.pruners.base import below_complete
from evomerge.pruners.median import MedianStopping


def test_a_candidate_below_the_median_is_pruned_and_one_at_it_is_not() -> None:
    rivals = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert not MedianStopping({}).goes_on(np.array([0.0, 0.0]), rivals)
    assert MedianStopping({}).goes_on(np.array([1.0, 0.0]), rivals)


def test_too_few_items_or_rivals_prune_nobody() -> None:
    worst, rivals = np.zeros(4), np.ones((5, 4))
    assert not MedianStopping({}).goes_on(worst, rivals)
    assert MedianStopping({"items": 5}).goes_on(worst, rivals)
    assert MedianStopping({"rivals": 6}).goes_on(worst, rivals)


@given(arrays.arrays(np.int64, (7, 8), elements=st.integers(0, 4)))
def test_it_decides_as_optunas_median_pruner_at_the_first_report(scores: np.ndarray) -> None:
    means = scores.mean(axis=1)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=0))
    for mean in means[1:]:
        study.add_trial(
            create_trial(
                value=float(mean),
                params={"x": 0.0},
                distributions={"x": FloatDistribution(0.0, 1.0)},
                intermediate_values={0: float(mean)},
            )
        )
    trial = study.ask()
    trial.report(float(means[0]), step=0)
    assert MedianStopping({}).goes_on(scores[0] / 1.0, scores[1:] / 1.0) == (not trial.should_prune())
    assert {found.state for found in study.trials[:-1]} == {TrialState.COMPLETE}


@pytest.mark.parametrize(("options", "message"), [({"itmes": 1}, "itmes"), ({"items": 0}, "1 or more")])
def test_options_that_cannot_be_used_are_refused_by_name(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"search\.pruner_options\..*{message}"):
        MedianStopping(options)


def test_pruned_later_ranks_higher_and_then_the_mean_decides() -> None:
    pruned = [np.array([1.0, 1.0]), np.array([0.0] * 4), np.array([0.0, 1.0]), np.array([0.25] * 4)]
    told = below_complete(pruned, np.array([0.5, 0.9]))
    assert [int(place) for place in np.argsort(-told)] == [3, 1, 0, 2]
    assert told.max() < 0.5
