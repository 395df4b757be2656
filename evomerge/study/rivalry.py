"""Which candidates go on: scores so far against those of rivals on the same items, put to the pruner.

A pruner of single candidates compares them with the generation before, and with the uniform merges for the first
generation: those that have answered as many blocks. None of these can change while a generation is evaluated. A pruner
of generations compares a generation's candidates with each other, when all of them that are still in have answered as
many blocks. So no decision depends on the order in which workers answer, nor on interruptions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from evomerge.pruners import PRUNERS
from evomerge.pruners.base import GenerationPruner, Pruner, Round, Scores
from evomerge.run.answers import Part
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.score.requests import Response
from evomerge.study.session import Session


class Rivalry:
    """The pruner of an open search, and what it goes by."""

    def __init__(self, session: Session) -> None:
        self._session = session
        settings = session.config.search
        self._prunes = settings.pruner != "none"
        self._pruner: Pruner | GenerationPruner = PRUNERS.get(settings.pruner)(settings.pruner_options)
        self._generation: int | None = None
        self._rivals: list[int] = []
        self._scores: dict[tuple[int, int], Scores] = {}

    def goes_on(self, trial: Trial) -> bool:
        """Whether a candidate that has answered some of its blocks, perhaps none, is worth the next."""
        blocks = len(self._session.parts.of(trial.number, "search"))
        if not self._prunes or not blocks or isinstance(self._pruner, GenerationPruner):
            return True
        scores = self.scores(trial.number, blocks)
        if not np.isfinite(scores).all():
            # A candidate that fails is found out when it has answered everything.
            return True
        rivals = [self.scores(number, blocks) for number in self._rivals_of(trial) if self._has(number, blocks)]
        rivals = [rival for rival in rivals if np.isfinite(rival).all()]
        return self._pruner.goes_on(scores, np.array(rivals).reshape(len(rivals), scores.size))

    @property
    def is_of_generations(self) -> bool:
        """Whether the pruner decides over whole generations."""
        return isinstance(self._pruner, GenerationPruner)

    def survivors(self, trials: Sequence[int], blocks: int, candidates: int) -> list[bool]:
        """Which of a generation's trials that have answered some of their blocks are worth the next.

        Args:
            trials: numbers of those that are still in, one for each candidate.
            blocks: that each of them has answered.
            candidates: how many the generation began with.
        """
        assert isinstance(self._pruner, GenerationPruner)
        scores = [self.scores(trial, blocks) for trial in trials]
        # The next time there will be more of them.
        self._scores.clear()
        # One that fails is found out when it has answered everything, and no measure for others.
        finite = [bool(np.isfinite(found).all()) for found in scores]
        if sum(finite) < 2:
            return [True] * len(trials)
        settings, population = self._session.config.search, self._session.population
        # Algorithms that go by rank learn from the better half.
        needed = max(population // 2, settings.shortlist)
        at = Round(candidates=candidates, needed=min(needed, candidates), items=sum(self._sizes.values()))
        rows = np.array([found for found, known in zip(scores, finite, strict=True) if known])
        going = iter(self._pruner.survivors(rows, at).tolist())
        return [next(going) if known else True for known in finite]

    def told(self, pruned: Sequence[Trial], complete: Scores) -> Scores:
        """What the search algorithm is told of a generation's pruned trials, (pruned,).

        Args:
            pruned: the trials.
            complete: fitness of the generation's complete ones, (complete,); at least one.
        """
        parts = self._session.parts
        scores = [self.scores(trial.number, len(parts.of(trial.number, "search"))) for trial in pruned]
        return self._pruner.told(scores, complete)

    def scores(self, trial: int, blocks: int) -> Scores:
        """A trial's scores on the items of its first blocks, (items,), higher being better."""
        if (trial, blocks) not in self._scores:
            session, benchmark = self._session, self._session.benchmark
            items = [item for block in session.blocks("search")[:blocks] for item in block]
            responses = in_order(session, "search", session.parts.of(trial, "search")[:blocks])
            table = benchmark.score("search", responses, items=items)
            self._scores[trial, blocks] = benchmark.objective.item_scores(table, self._sizes)
        return self._scores[trial, blocks]

    @cached_property
    def _sizes(self) -> Counter[str]:
        """Search items by task."""
        return Counter(item.task for item in self._session.benchmark.splits["search"])

    def _has(self, trial: int, blocks: int) -> bool:
        return len(self._session.parts.of(trial, "search")) >= blocks

    def _rivals_of(self, trial: Trial) -> list[int]:
        """Numbers of a trial's rivals. Failed ones are none."""
        if trial.generation != self._generation or trial.generation is None:
            before = None if not trial.generation else trial.generation - 1
            self._generation = trial.generation
            self._rivals = [
                rival.number
                for rival in self._session.ledger.trials()
                if rival.state in {TrialState.COMPLETE, TrialState.PRUNED}
                and (rival.kind is TrialKind.UNIFORM if before is None else rival.generation == before)
            ]
            kept = {*self._rivals}
            self._scores = {key: scores for key, scores in self._scores.items() if key[0] in kept}
        return self._rivals


def in_order(session: Session, split: str, parts: Sequence[Part]) -> list[Response]:
    """The responses of a split's first blocks, in the order of the split's requests."""
    found: dict[int, Response] = {}
    for part, items in zip(parts, session.blocks(split), strict=False):
        found |= dict(zip(session.benchmark.places(split, items), part.responses, strict=True))
    return [found[place] for place in sorted(found)]
