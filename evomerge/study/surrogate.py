"""Merges that a Gaussian process expects the most of, by what the search has scored: within it and at its end.

Knows trials and what is known of them. Does not know how the process is fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms.surrogate import FEWEST_GENERATIONS, MOST_POINTS, MOST_WITHIN, expected_best
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.space.base import Genome
from evomerge.study.candidates import Candidates


class _Known(NamedTuple):
    """What is known of one merge of the space."""

    genome: Genome
    score: float
    items: NDArray[np.float64]
    """Scores on the items that it has answered."""


class Surrogate:
    """What a search's scores let expect of other merges."""

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._seen: dict[int, _Known] = {}

    def guided(self, asked: list[Genome], generation: int, recorded: Sequence[Trial]) -> list[Genome]:
        """A generation whose last candidate, if it is this generation's turn, is the surrogate's instead.

        Args:
            asked: what the algorithm asks for.
            generation: its number.
            recorded: those of its trials that are on record. One that is all there is taken as it is, since another
                processor might expect another merge to be the best.
        """
        every = self._candidates.session.config.search.surrogate_every
        if not every or generation < FEWEST_GENERATIONS or generation % every:
            return asked
        if len(recorded) >= len(asked):
            best: Genome | None = self._candidates.space.genome(recorded[len(asked) - 1].parameters)
        else:
            # No merge of the end of a search that goes on now, so that it goes on as one that hadn't ended.
            best = self._expected(
                [
                    trial
                    for trial in self._candidates.ledger.trials()
                    if trial.kind.is_baseline or (trial.generation is not None and trial.generation < generation)
                ],
                MOST_WITHIN,
            )
        return asked if best is None else [*asked[:-1], best]

    def score_at_the_end(self) -> None:
        """Have merges answer all search items that are expected to be the best, one after the other.

        The process is fitted again with each of them, so that one that it was wrong about corrects it. Outside the
        budget, as the distribution's mean is.
        """
        candidates = self._candidates
        done = sum(trial.kind is TrialKind.CANDIDATE for trial in candidates.ledger.trials())
        for number in range(1, candidates.session.config.search.surrogate + 1):
            name = f"surrogate {number} after {done} candidates"
            # An interrupted search goes on with those that are on record.
            trials = [trial for trial in candidates.ledger.trials() if trial.name == name]
            if not trials:
                best = self._expected(candidates.ledger.trials(), MOST_POINTS)
                if best is None:
                    return
                trials = [candidates.trial(TrialKind.SURROGATE, name, best)]
            candidates.evaluate(trials, "search")
            if trials[0].name != name:
                # It would propose the same merge for ever.
                return

    def _expected(self, trials: Sequence[Trial], most: int) -> Genome | None:
        """The best merge by what at most so many of these trials tell."""
        known = self._known(trials, most)
        noise = np.mean([np.var(one.items) for one in known]) if known else 0.0
        return expected_best(
            self._candidates.session.space.dimensions,
            [one.genome for one in known],
            np.array([one.score for one in known]),
            np.array([noise / len(one.items) for one in known]),
        )

    def _known(self, trials: Sequence[Trial], most: int) -> list[_Known]:
        """What is known of the space's merges: of the latest ones, those that answered all items before others."""
        trials = [trial for trial in trials if trial.parameters]
        whole = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        parts = [
            trial
            for trial in trials
            if trial.state is TrialState.PRUNED and self._candidates.rivalry.has_answered_its_share(trial)
        ]
        # The others' answers are left on the disk.
        return [self._known_of(trial) for trial in [*parts, *whole][-most:]]

    def _known_of(self, trial: Trial) -> _Known:
        """What is known of a trial that has answered all items, or its share of them."""
        if trial.number not in self._seen:
            genome, rivalry = self._candidates.space.genome(trial.parameters), self._candidates.rivalry
            if (fitness := self._candidates.fitness(trial)) is not None:
                self._seen[trial.number] = _Known(genome, fitness, self._candidates.item_scores([trial])[0])
            else:
                self._seen[trial.number] = _Known(genome, rivalry.estimated(trial), rivalry.of_its_share(trial))
        return self._seen[trial.number]
