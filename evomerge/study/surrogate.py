"""Merges that a Gaussian process expects to be the best, by all that the search has scored.

Knows trials and what is known of them. Does not know how the process is fitted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.surrogate import MOST_POINTS, expected_best
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.space.base import Genome
from evomerge.study.candidates import Candidates


class _Known(NamedTuple):
    """What is known of one merge of the space."""

    genome: Genome
    score: float
    items: NDArray[np.float64]
    """Scores on the items that it has answered."""


def score_surrogates(candidates: Candidates) -> None:
    """Have merges answer all search items that a Gaussian process expects the most of, one after the other.

    It is fitted again with each of them, so that one that it was wrong about corrects it. Outside the budget, as the
    distribution's mean is.
    """
    session = candidates.session
    dimensions = session.space.dimensions
    done = sum(trial.kind is TrialKind.CANDIDATE for trial in candidates.ledger.trials())
    for number in range(1, session.config.search.surrogate + 1):
        name = f"surrogate {number} after {done} candidates"
        # An interrupted search goes on with those that are on record.
        trials = [trial for trial in candidates.ledger.trials() if trial.name == name]
        if not trials:
            known = _known(candidates)
            noise = np.mean([np.var(one.items) for one in known]) if known else 0.0
            best = expected_best(
                dimensions,
                [one.genome for one in known],
                np.array([one.score for one in known]),
                np.array([noise / len(one.items) for one in known]),
            )
            if best is None:
                return
            trials = [candidates.trial(TrialKind.SURROGATE, name, best)]
        candidates.evaluate(trials, "search")
        if trials[0].name != name:
            # It would propose the same merge for ever.
            return


def _known(candidates: Candidates) -> list[_Known]:
    """What is known of the space's merges: of the latest ones, those that answered all items before others."""
    trials = [trial for trial in candidates.ledger.trials() if trial.parameters]
    whole = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    parts = [
        trial
        for trial in trials
        if trial.state is TrialState.PRUNED and candidates.rivalry.has_answered_its_share(trial)
    ]
    # The others' answers are left on the disk.
    return [_known_of(candidates, trial) for trial in [*parts, *whole][-MOST_POINTS:]]


def _known_of(candidates: Candidates, trial: Trial) -> _Known:
    """What is known of a trial that has answered all items, or its share of them."""
    genome, rivalry = candidates.space.genome(trial.parameters), candidates.rivalry
    if (fitness := candidates.fitness(trial)) is not None:
        return _Known(genome, fitness, candidates.item_scores([trial])[0])
    return _Known(genome, rivalry.estimated(trial), rivalry.of_its_share(trial))
