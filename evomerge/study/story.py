"""A run's story as its Optuna study tells it: to optuna-dashboard, and to whoever loads the study with Optuna alone.

Nothing of a search depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from evomerge.run.directory import Run
from evomerge.score.goals import Goals

_SPLITS = ("search", "validation", "test")


class Story(NamedTuple):
    """Attributes of a study, and what the values of its trials are called."""

    attributes: dict[str, Any]
    metrics: list[str]


def story_of_start(run: Run) -> Story:
    """What a run is about: its tasks, models and versions."""
    benchmark = run.facts.get("benchmark", {})
    tasks = [task for task in benchmark.get("tasks", ()) if "task" in task]
    models = run.config.models
    attributes = {
        "run": run.directory.resolve().name,
        "tasks": {task["task"]: task.get("metric") for task in tasks},
        "models": {"base": models.base.path, **{name: expert.path for name, expert in models.experts.items()}},
        "method": run.config.merge.method,
        "versions": run.facts.get("versions", {}),
    }
    goals = run.config.search.goals
    return Story({key: value for key, value in attributes.items() if value}, _metrics(goals, tasks))


def story_of_end(result: Mapping[str, Any]) -> dict[str, Any]:
    """The winner with its scores, and what every merge of the shortlist scored on the validation items.

    These belong to trials, of which Optuna takes nothing more once they have ended.
    """
    number = result["winner"]["trial"]
    scores = {
        split: found["score"] for split in _SPLITS for found in result[split]["models"] if found["kind"] == "winner"
    }
    return {
        "winner": {"trial": number, "kind": str(result["winner"]["kind"]), **scores},
        "validation": {str(found["trial"]): found["validation"] for found in result["shortlist"]},
        **({"picks": dict(result["picks"])} if "picks" in result else {}),
    }


def _metrics(goals: Goals, tasks: list[Mapping[str, Any]]) -> list[str]:
    if goals.are_several:
        return [goal.name for goal in goals.goals]
    one = tasks[0] if len(tasks) == 1 else {}
    metric = one.get("metric")
    if not metric or not one.get("higher_is_better"):
        return ["score"]
    return [f"{metric.removesuffix(',none')} of {one['task']}"]
