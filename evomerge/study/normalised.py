"""What models keep of the experts' own scores, where each task is an expert's and answered with its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.config.config import Config
from evomerge.run.trial import TrialKind


def owners(config: Config) -> dict[str, str]:
    """For each task of labels the expert whose head it has; empty if a task has none, or there is but one task."""
    labels = config.benchmark.labels
    if labels is None or len(labels.tasks) < 2:
        return {}
    places = {expert.path: name for name, expert in config.models.experts.items()}
    found = {task: places.get(one.head or "") for task, one in labels.tasks.items()}
    return {task: owner for task, owner in found.items() if owner is not None} if all(found.values()) else {}


def shares(models: Sequence[Mapping[str, Any]], owner: Mapping[str, str]) -> list[dict[str, float]]:
    """For each model and task its score over that of the task's own expert.

    Args:
        models: of one split, as result.json holds them.
        owner: of each task, see `owners`.

    Returns: empty for every model where an expert has no score above 0 on its task, or there are no owners.
    """
    experts = {model["name"]: model["tasks"] for model in models if model["kind"] == TrialKind.EXPERT}
    best = {task: experts.get(name, {}).get(task, 0.0) for task, name in owner.items()}
    if not best or min(best.values()) <= 0:
        return [{} for _ in models]
    return [{task: model["tasks"][task] / score for task, score in best.items()} for model in models]
