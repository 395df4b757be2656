"""Whether every model of a run scores nothing or everything, and what to look at then."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from evomerge.run.directory import Run

_SHOWN_ANSWERS = 3
_SHOWN_CHARACTERS = 60


def all_alike(run: Run, scores: Iterable[float]) -> str | None:
    """A few sentences if all the scores are 0 or all are 1, so that no merge is told from another; else None.

    Nothing is said of zeros where lower is better.

    Args:
        run: its tasks say which way is better, and its records hold the answers.
        scores: of some models on the search items.
    """
    found = list(scores)
    tasks = run.facts.get("benchmark", {}).get("tasks", [])
    alike = found[0] if len(set(found)) == 1 else None
    if alike not in {0.0, 1.0} or not all(task.get("higher_is_better", False) for task in tasks):
        return None
    filters = sorted({str(task["metric"]) for task in tasks})
    answers = _answers(run)
    seen = f" Some of the answers: {'; '.join(map(repr, answers))}." if answers else ""
    if alike == 1.0:
        return (
            "Every model scores 1 on the search items: no merge can be told from another there. Search over harder "
            f"items, and look whether the metric's filter ({', '.join(filters)}) also takes wrong answers for right."
            f"{seen}"
        )
    return (
        "Every model scores 0 on the search items: either the tasks are too hard for these models, or right answers "
        "aren't recognised. "
        f"Look at what the models answer, and whether the metric's filter ({', '.join(filters)}) finds it there.{seen} "
        f"All answers: evomerge items {shlex.quote(str(run.directory))} answers.parquet --split search"
    )


def _answers(run: Run) -> list[str]:
    """The first few different texts that the last evaluated model gave to search items, cut short."""
    for evaluation in reversed(run.ledger().evaluations()):
        if evaluation.split != "search" or evaluation.table is None:
            continue
        for scores in evaluation.table.tasks.values():
            texts = scores.answers.texts() if scores.answers is not None else None
            if texts:
                return list(dict.fromkeys(_cut(own[0]) for own in texts if own))[:_SHOWN_ANSWERS]
    return []


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
