"""Trials and objectives in the terms of Optuna's studies."""

from __future__ import annotations

import math
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from evomerge.run.evaluation import Evaluation
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.score.goals import Goals

SCORE = "score"
"""The attribute that holds the benchmark's score of a trial whose values are those of several objectives."""

_LONGEST_REASON = 300

_STATES = {
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETE,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
    optuna.trial.TrialState.PRUNED: TrialState.PRUNED,
}


def trial_of(frozen: FrozenTrial) -> Trial:
    """A trial as the study holds it."""
    state = _STATES.get(frozen.state, TrialState.RUNNING)
    attributes = frozen.user_attrs
    return Trial(
        number=frozen.number,
        kind=TrialKind(attributes.get("kind", TrialKind.CANDIDATE)),
        name=attributes.get("name", f"trial {frozen.number}"),
        generation=attributes.get("generation"),
        parameters=frozen.params,
        recipe_key=attributes.get("recipe", ""),
        state=state,
        score=attributes.get(SCORE, frozen.values[0]) if state is TrialState.COMPLETE else None,
        blocks=max(frozen.intermediate_values, default=0),
        told=tuple(attributes.get("told", ())),
    )


def attributes_of(trial: Trial) -> dict[str, Any]:
    """What the study holds of a trial beside its parameters and state."""
    return {
        "kind": trial.kind.value,
        "name": trial.name,
        "generation": trial.generation,
        "recipe": trial.recipe_key,
        **({"told": list(trial.told)} if trial.told else {}),
    }


def outcome_of(evaluation: Evaluation) -> dict[str, Any]:
    """What the study holds of an evaluation on the search items beside its values, for people who look at the study.

    Only what the values don't say: of a search over one task they are its score already.
    """
    scores = {
        task if len(metrics) == 1 else f"{task}, {metric}": round(value, 6)
        for task, metrics in evaluation.aggregates.items()
        for metric, value in metrics.items()
        if math.isfinite(value)
    }
    fitness = evaluation.fitness
    return {
        **(
            {} if fitness is None or fitness == evaluation.score or not math.isfinite(fitness) else {"fitness": fitness}
        ),
        **({"tasks": scores} if len(scores) > 1 else {}),
        **({} if evaluation.failure is None else {"reason": evaluation.failure[:_LONGEST_REASON]}),
    }


def directions_of(goals: Goals) -> list[StudyDirection]:
    """Of the values of a study: those of all objectives where there is a front between them, else one score."""
    if not goals.are_several:
        return [StudyDirection.MAXIMIZE]
    return [StudyDirection.MAXIMIZE if goal.higher_is_better else StudyDirection.MINIMIZE for goal in goals.goals]
