"""Whether a merge meets the constraints of its search, split by split."""

from __future__ import annotations

from typing import Any

from evomerge.benchmark.base import SPLITS
from evomerge.run.trial import Trial, each_once
from evomerge.study.session import Session


def references(session: Session) -> list[Trial]:
    """The baselines that constraints compare with, each once."""
    found = [session.ledger.reference(bound.than) for bound in session.goals.bounds if bound.than is not None]
    return each_once(trial for trial in found if trial is not None)


def requirements(session: Session, trial: Trial) -> dict[str, Any]:
    """By split, what a trial has of each constraint, the limit there, and by how much they are missed in all.

    A limit is None where the model that a constraint compares with has no score. Empty without constraints.
    """
    found: dict[str, Any] = {}
    for split in SPLITS if session.goals.bounds else ():
        evaluation = session.ledger.evaluation(trial.number, split)
        if evaluation is None or not evaluation.measured:
            continue
        limits = {}
        for bound in session.goals.bounds:
            known = {} if bound.than is None else session.ledger.measured(bound.than, split)
            limit = bound.limit(known.get(bound.name))
            limits[bound.name] = None if limit is None else limit[0]
        found[split] = {
            "values": {bound.name: evaluation.measured[bound.name] for bound in session.goals.bounds},
            "limits": limits,
            "feasible": evaluation.is_feasible,
            "violation": evaluation.missed_by,
        }
    return found
