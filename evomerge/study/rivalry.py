"""Which candidates go on: scores so far against those of rivals on the same items, put to the pruner.

Rivals are the candidates of the generation before, and the uniform merges for the first generation: those that have
answered as many blocks. None of them can change while a generation is evaluated, so a decision doesn't depend on
the order in which workers answer, nor on interruptions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from evomerge.pruners import PRUNERS
from evomerge.pruners.base import Pruner, Scores
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
        self._pruner: Pruner = PRUNERS.get(settings.pruner)(settings.pruner_options)
        self._generation: int | None = None
        self._rivals: list[int] = []
        self._scores: dict[tuple[int, int], Scores] = {}

    def goes_on(self, trial: Trial) -> bool:
        """Whether a candidate that has answered some of its blocks, perhaps none, is worth the next."""
        blocks = len(self._session.parts.of(trial.number, "search"))
        if not self._prunes or not blocks:
            return True
        scores = self.scores(trial.number, blocks)
        if not np.isfinite(scores).all():
            # A candidate that fails is found out when it has answered everything.
            return True
        rivals = [self.scores(number, blocks) for number in self._rivals_of(trial) if self._has(number, blocks)]
        rivals = [rival for rival in rivals if np.isfinite(rival).all()]
        return self._pruner.goes_on(scores, np.array(rivals).reshape(len(rivals), scores.size))

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
