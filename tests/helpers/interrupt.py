"""An observer that breaks a search off."""

from __future__ import annotations

from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord


class Interrupt(SilentObserver):
    """Breaks the search off after some trials, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def trial(self, record: TrialRecord) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
