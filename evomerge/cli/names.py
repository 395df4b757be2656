"""What trials and models are called on screens. A trial's number is its only number."""

from __future__ import annotations

from evomerge.run.trial import TrialKind

_LEADERS = {
    TrialKind.UNIFORM.value: "best uniform",
    TrialKind.START.value: "start",
    TrialKind.METHOD.value: "best of other methods",
    TrialKind.CANDIDATE.value: "best candidate",
    TrialKind.MEAN.value: "distribution's mean",
    TrialKind.SURROGATE.value: "best of the surrogate's",
}


def leader_name(kind: str) -> str:
    """What the best trial of a kind is called; `kind` is as `TrialRecord.model` names it."""
    return _LEADERS.get(kind, kind)
