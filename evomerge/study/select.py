"""Choosing the winner and testing it honestly.

The search score of the best candidate is mostly luck, so the best few, the distribution's mean and the best few
uniform merges are scored again on validation items, with the merges of other methods. The best there is the winner; the
best uniform merge there and the best merge of each other method are what it is compared with. Only these, the base and
the experts are tested. Pure functions over what the ledger
holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import RunError
from evomerge.estimate.clusters import Clusters, clustered_comparison, clustered_interval
from evomerge.estimate.comparisons import holm
from evomerge.estimate.intervals import Samples, resamples, size
from evomerge.methods.published import kind_of
from evomerge.run.evaluation import Evaluation
from evomerge.run.trial import WINNER, Trial, TrialKind

SELECTION = 3
"""The present rule of selection, as run.json has it. In runs without a word on it, rule 1, the best uniform merge is
the one with the best search fitness; by rule 2 as many are validated as there are candidates on the shortlist, but for
those that are clearly worse on the search items, each of which counts as one; by rule 3 clusters of items do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One model with its score and its items' scores on one split."""

    trial: int
    name: str
    kind: str
    """base, expert, uniform, method or winner."""
    score: float
    items: Samples
    """Each task's metric with what each item adds to it, higher being better."""
    tasks: Mapping[str, float] = field(default_factory=dict)
    """Each task's metric as lm-eval prints it."""
    languages: Mapping[str, float] = field(default_factory=dict)
    """By task whose text is to be in a language, the share of items that are."""


def ranked(trials: Sequence[Trial], evaluations: Mapping[int, Evaluation]) -> list[Trial]:
    """Trials that have a fitness, best first; earlier ones first among equals, each recipe once."""
    scored = [(trial, evaluations[trial.number].fitness) for trial in trials if trial.number in evaluations]
    best_first = sorted(
        ((trial, fitness) for trial, fitness in scored if fitness is not None),
        key=lambda pair: (-pair[1], pair[0].number),
    )
    by_recipe: dict[str, Trial] = {}
    for trial, _ in best_first:
        by_recipe.setdefault(trial.recipe_key, trial)
    return list(by_recipe.values())


def shortlist(
    trials: Sequence[Trial], evaluations: Mapping[int, Evaluation], size: int, uniform: Sequence[Trial]
) -> list[Trial]:
    """The merges to validate, by search fitness, each recipe once.

    Args:
        trials: all of a run.
        evaluations: on the search items, by trial number.
        size: how many of the best merges of any kind. The newest mean joins them whatever it scores.
        uniform: the uniform merges, and those of other methods, that are validated whatever else is.
    Raises: RunError if no merge has a score.
    """
    merges = [trial for trial in trials if trial.kind.is_ranked]
    best = ranked(merges, evaluations)[:size]
    if not best:
        raise no_merge_has_a_score()
    best += [trial for trial in trials if trial.kind is TrialKind.MEAN][-1:]
    best += uniform
    return ranked(best, evaluations)


def no_merge_has_a_score() -> RunError:
    """What is wrong if nothing can be chosen from."""
    return RunError(
        "no merge could be scored: every candidate failed. The reasons are in: evomerge trials RUN --format json"
    )


def best_uniform(trials: Sequence[Trial], evaluations: Mapping[int, Evaluation], size: int) -> list[Trial]:
    """At most `size` uniform merges, those with the best search fitness, best first; empty if all of them failed."""
    return ranked([trial for trial in trials if trial.kind is TrialKind.UNIFORM], evaluations)[:size]


def best_of_each_method(trials: Sequence[Trial], validation: Mapping[int, Evaluation | None]) -> list[Trial]:
    """Of other methods' merges, for each method the best on validation, in the order of the trials."""
    methods: dict[str, list[Trial]] = {}
    for trial in trials:
        methods.setdefault(kind_of(trial.name), []).append(trial)
    best = [best_validated(own, validation) for own in methods.values()]
    return sorted(best, key=lambda trial: trial.number)


def name_of(trial: Trial, kind: str) -> str:
    """What a tested model is called: an expert by its name, another method's merge with its kind before it."""
    if kind in {TrialKind.UNIFORM, WINNER}:
        return kind
    return f"{kind} {trial.name}" if kind == TrialKind.METHOD else trial.name


def not_clearly_worse(
    trials: Sequence[Trial], items: Sequence[Samples], weights: Mapping[str, float], clusters: Clusters | None = None
) -> list[Trial]:
    """The first trial, and those that the same items don't show to be worse.

    A few trials of very different worth would else be told apart by the luck of a few validation items alone.

    Args:
        trials: the best first.
        items: of each trial, its results on the search items.
        weights: of the tasks.
        clusters: of the search items; None: every item is by itself.
    """
    return [
        trial
        for trial, others in zip(trials, items, strict=True)
        if trial is trials[0] or clustered_comparison(items[0], others, weights, clusters).interval.low <= 0
    ]


def best_validated(trials: Sequence[Trial], validation: Mapping[int, Evaluation | None]) -> Trial:
    """The trial with the best fitness on validation items, the first of equals; the first of all if none has one."""

    def fitness(trial: Trial) -> float:
        found = validation[trial.number]
        return -math.inf if found is None or found.fitness is None else found.fitness

    return max(trials, key=fitness)


def summary(models: Sequence[Scored], weights: Mapping[str, float], clusters: Clusters | None = None) -> dict[str, Any]:
    """`models`, `comparisons` and `resamples` of one split, as result.json holds them.

    Args:
        models: with the winner among them, if it has a score.
        weights: of the tasks.
        clusters: of the split's items; None: every item is by itself.
    """
    winner = next((model for model in models if model.kind == WINNER), None)
    # The best uniform merge may be the winner itself.
    rivals = [model for model in models if winner is not None and model.trial != winner.trial]
    comparisons = []
    if winner is not None:
        found = [clustered_comparison(winner.items, rival.items, weights, clusters) for rival in rivals]
        adjusted = holm([comparison.p for comparison in found])
        comparisons = [
            {
                "winner_vs": rival.name,
                "difference": comparison.difference,
                "interval": list(comparison.interval),
                "p": comparison.p,
                "p_holm": p_holm,
            }
            for rival, comparison, p_holm in zip(rivals, found, adjusted, strict=True)
        ]
    return {
        "models": [
            {
                "name": model.name,
                "kind": model.kind,
                "trial": model.trial,
                "score": model.score,
                "interval": list(clustered_interval(model.items, weights, clusters)),
                "items": sum(map(size, model.items.values())),
                **({"tasks": dict(model.tasks)} if model.tasks else {}),
                **({"languages": dict(model.languages)} if model.languages else {}),
            }
            for model in models
        ],
        "comparisons": comparisons,
        **({} if clusters is None else {"clusters": len({name for own in clusters.values() for name in own})}),
        "resamples": min((resamples(model.items) for model in models), default=None),
    }
