"""What is told of a search while it goes on."""

from __future__ import annotations

from typing import Protocol

from evomerge.run.records import TrialRecord


class Observer(Protocol):
    """Is told what a search is doing. Must not raise and must return at once."""

    def phase(self, name: str, total: int | None) -> None:
        """A phase begins: merging, models, alignment, benchmark, workers, baselines, search, validation, test, export.

        Workers may start within a phase of evaluations, which goes on when they are "ready".
        """

    def trial(self, record: TrialRecord) -> None:
        """A candidate has been evaluated, on whichever split; `seconds` are what that took."""

    def generation(self, number: int, best: float, median: float, failed: int) -> None:
        """A generation is complete, or as many results where nothing waits for one.

        Args:
            number: its own.
            best: its best fitness.
            median: its median fitness.
            failed: how many of its candidates failed.
        """

    def message(self, text: str) -> None:
        """Something that the user should know."""


class SilentObserver:
    """Says nothing."""

    def phase(self, name: str, total: int | None) -> None:
        """Ignored."""

    def trial(self, record: TrialRecord) -> None:
        """Ignored."""

    def generation(self, number: int, best: float, median: float, failed: int) -> None:
        """Ignored."""

    def message(self, text: str) -> None:
        """Ignored."""
