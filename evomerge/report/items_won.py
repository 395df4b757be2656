"""The test items that a merge wins from the best expert, and those that it loses to it, with what both answered.

Knows recorded scores and answers. What was asked stands in no run; it is taken from whoever has the benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.report.run_facts import RunFacts
from evomerge.score.table import TaskScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is asked of an item."""

    prompt: str
    choices: tuple[str, ...] = ()
    """What it chooses from, in the order of its log-likelihoods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One item with the scores and answers of two models."""

    item: str
    task: str
    scores: tuple[float, float]
    """As the task's metric has them: of the merge and of the expert."""
    difference: float
    """How much better the merge is; above zero if it won the item."""
    answers: tuple[str, str]
    log_likelihoods: tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A merge and an expert on the items that both were scored on."""

    merge: int
    expert: str
    won: Sequence[Answered]
    lost: Sequence[Answered]
    """Those with the largest difference first."""
    equal: int
    left_out: Sequence[str]
    """Tasks whose items have no scores of their own."""


def compared(facts: RunFacts) -> Compared | None:
    """The shown merge against the best expert on the test items; None if one of them wasn't tested."""
    expert = facts.expert_on_test
    if facts.shown is None or expert is None:
        return None
    own, other = facts.table(facts.shown.number, "test"), facts.table(expert.number, "test")
    if own is None or other is None:
        return None
    every: list[Answered] = []
    left_out = []
    for task, metric in facts.objective.metrics.items():
        first, second = own.tasks[task], other.tasks[task]
        if first.items != second.items or not all(
            isinstance(value, int | float) for scores in (first, second) for value in scores.values[metric]
        ):
            left_out.append(task)
            continue
        answers, logs = zip(*map(_answers, (first, second)), strict=True)
        for place, item in enumerate(first.items):
            scores = float(first.values[metric][place]), float(second.values[metric][place])
            every.append(
                Answered(
                    item=item,
                    task=task,
                    scores=scores,
                    difference=facts.objective.sign(task) * (scores[0] - scores[1]),
                    answers=(answers[0][place], answers[1][place]),
                    log_likelihoods=(logs[0][place], logs[1][place]),
                )
            )
    return Compared(
        merge=facts.shown.number,
        expert=expert.name,
        won=sorted((one for one in every if one.difference > 0), key=lambda one: -one.difference),
        lost=sorted((one for one in every if one.difference < 0), key=lambda one: one.difference),
        equal=sum(one.difference == 0 for one in every),
        left_out=left_out,
    )


def in_words(answered: Answered, model: int, question: Question | None) -> str:
    """What one of the two models answered.

    Args:
        answered: an item.
        model: 0 for the merge, 1 for the expert.
        question: what was asked, where it is known.
    """
    if answered.answers[model]:
        return answered.answers[model]
    logs = answered.log_likelihoods[model]
    if not logs:
        return "(nothing is recorded of its answer)"
    best = max(range(len(logs)), key=lambda place: logs[place])
    choices: Mapping[int, str] = dict(enumerate(question.choices if question else ()))
    name = choices.get(best, "").strip() if len(choices) == len(logs) else ""
    return f"{name or f'choice {best + 1} of {len(logs)}'} (log-likelihood {logs[best]:.2f}, the highest)"


def _answers(scores: TaskScores) -> tuple[list[str], list[tuple[float, ...]]]:
    """Text and log-likelihoods of each item; empty where there are none."""
    if scores.answers is None:
        return [""] * len(scores.items), [()] * len(scores.items)
    texts = scores.answers.texts() or [[] for _ in scores.items]
    shown = ["\n—\n".join(text if text else "(an empty answer)" for text in own) for own in texts]
    return shown, [tuple(own) for own in scores.answers.log_likelihoods()]
