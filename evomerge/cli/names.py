"""What trials and models are called on screens. A trial's number is its only number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.run.trial import TrialKind

if TYPE_CHECKING:
    from evomerge.run.records import TrialRecord

_LEADERS = {
    TrialKind.UNIFORM.value: "best uniform",
    TrialKind.CANDIDATE.value: "best candidate",
    TrialKind.MEAN.value: "distribution's mean",
}


def trial_name(trial: TrialRecord) -> str:
    """What kind of model a trial is, and which expert."""
    return f"expert {trial.name}" if trial.kind is TrialKind.EXPERT else trial.kind.value


def leader_name(kind: str) -> str:
    """What the best trial of a kind is called; `kind` is as `evomerge.run.records.leaders` names it."""
    return _LEADERS.get(kind, kind)
