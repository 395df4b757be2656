"""One trial of a search: what kind of model it is, where it comes from, and how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # For annotations alone: the command line knows kinds without numpy.
    from evomerge.space.base import Value

WINNER = "winner"
"""The kind of the winning model in result.json, whatever kind of trial it is."""


class TrialKind(StrEnum):
    """Where a trial's model comes from. The values are those in the study and in result.json."""

    BASE = "base"
    """The base as it is."""
    EXPERT = "expert"
    """One expert as it is."""
    UNIFORM = "uniform"
    """A merge with the same coefficients in every group."""
    START = "start"
    """The merge of another run or of a recipe that the search starts from, as this search's space has it."""
    METHOD = "method"
    """Another method's merge at its paper's settings, or a layer swap; its trial has a name and no parameters."""
    CANDIDATE = "candidate"
    """A merge that the search algorithm proposed."""
    ELITE = "elite"
    """One of the best candidates that had answered some of the items, with all of them answered."""
    MEAN = "mean"
    """The merge at the mean of the algorithm's distribution."""
    SURROGATE = "surrogate"
    """The merge that a Gaussian process, fitted to all that was scored, expects the most of."""

    @property
    def is_checkpoint(self) -> bool:
        """One of the given models, unmerged; its trial has no parameters."""
        return self in {TrialKind.BASE, TrialKind.EXPERT}

    @property
    def is_baseline(self) -> bool:
        """Evaluated before the algorithm proposes anything."""
        return self.is_checkpoint or self in {TrialKind.UNIFORM, TrialKind.START, TrialKind.METHOD}

    @property
    def is_ranked(self) -> bool:
        """A merge that is chosen by its search score; the mean is chosen whatever it scores there."""
        return not self.is_checkpoint and self is not TrialKind.MEAN


class TrialState(StrEnum):
    """How far a trial is on the search items."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    PRUNED = "pruned"
    """Stopped before it had answered all items."""

    @property
    def is_finished(self) -> bool:
        """It needs no more evaluation."""
        return self is not TrialState.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate as the study holds it."""

    number: int
    kind: TrialKind
    name: str
    generation: int | None
    parameters: Mapping[str, Value]
    recipe_key: str
    state: TrialState
    score: float | None
    blocks: int = 0
    """Of a stopped one: how many blocks of items it had answered itself, as far as the run says."""
    told: tuple[int, ...] = ()
    """Of a candidate of an asynchronous search: the trials that the algorithm was told of since it was asked for the
    one before, in their order."""


def each_once(trials: Iterable[Trial]) -> list[Trial]:
    """The trials in their order, each once."""
    return list({trial.number: trial for trial in trials}.values())
