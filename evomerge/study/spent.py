"""What an open search has spent, and has left: candidates, item evaluations, hours, and hours of GPUs.

What candidates answered is counted from what is recorded, and only of generations or candidates that have ended, so an
interrupted search ends where it would have. Does not know how candidates are proposed.
"""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.run.trial import Trial
from evomerge.study.answered import items_answered
from evomerge.study.session import Session

_IDLE_GENERATIONS = 10
"""Generations in a row, or as many candidates, that answer nothing, after which a budget of items will never be
spent."""


class Budget:
    """The budget of an open search, spent generation by generation.

    Args:
        session: of the search.
        one_by_one: it is spent candidate by candidate instead.
    """

    def __init__(self, session: Session, *, one_by_one: bool = False) -> None:
        self._patience = _IDLE_GENERATIONS * (session.population if one_by_one else 1)
        self._turns = "candidates" if one_by_one else "generations"
        self._session = session
        self._search = session.config.search
        self._all_items = len(session.benchmark.splits["search"])
        self._candidates = 0
        self._items = 0
        self._idle = 0

    @property
    def worth(self) -> int:
        """How many candidates that answer all they may it is worth from the start."""
        return self._search.candidates_worth(self._all_items)

    @property
    def candidates_left(self) -> int:
        """How many more candidates it pays for, if each of them answers all that it may."""
        left = self._search.evaluations - self._candidates
        if self._search.budget.items is not None:
            each = self._search.items_of_candidate(self._all_items)
            left = min(left, (self._search.budget.items - self._items) // each)
        return 0 if self._idle >= self._patience else max(0, left)

    @property
    def time_spent(self) -> str | None:
        """What ran out, in words, once hours of any kind are spent."""
        hours, gpu_hours, clock = self._search.hours, self._search.budget.gpu_hours, self._session.clock
        if hours is not None and clock.hours >= hours:
            return f"{clock.hours:.2f} hours of driving"
        if gpu_hours is not None and clock.gpu_hours >= gpu_hours:
            return f"{clock.gpu_hours:.2f} hours of GPUs"
        return None

    @property
    def items_spent(self) -> str | None:
        """Why the search ends before its last candidate, in words; None if it doesn't."""
        if self._search.budget.items is None or self._candidates >= self._search.evaluations:
            return None
        spent = f"{self._items:,} of {self._search.budget.items:,} item evaluations"
        if self._idle >= self._patience:
            return f"{spent}, since {self._idle} {self._turns} answered nothing: they proposed what is known, or failed"
        return spent

    def spend(self, trials: Sequence[Trial]) -> None:
        """A generation, or one candidate, has been evaluated."""
        session, before = self._session, self._items
        self._candidates += len(trials)
        self._items += sum(
            items_answered(
                self._search, self._all_items, trial, session.ledger, session.parts.count(trial.number, "search")
            )
            for trial in trials
        )
        self._idle = 0 if self._items > before else self._idle + 1
        session.clock.spent(self._candidates, self._items, at_once=self._turns == "generations")
