"""How many search items candidates have answered, by what is recorded.

Loads no models. Does not know what that is worth, or how much of it is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from evomerge.config.search import SearchConfig
from evomerge.run.answers import blocks_answered
from evomerge.run.directory import Run
from evomerge.run.ledger import Ledger
from evomerge.run.trial import Trial, TrialKind
from evomerge.study.schedule import Schedule


def schedule_of(search: SearchConfig, blocks: int) -> Schedule:
    """Which blocks of search items, of so many, a candidate answers, in which order."""
    share = None if search.items == "fixed" else math.ceil(search.items_per_candidate / (search.block or 1))
    return Schedule(blocks, share=share, seed=search.seed)


def items_answered(search: SearchConfig, items: int, trial: Trial, ledger: Ledger, blocks: int) -> int:
    """How many search items a merge answered; none if it took over another's result.

    Args:
        search: the section of the config.
        items: search items there are.
        trial: the merge's.
        ledger: with its evaluation, if it has one.
        blocks: of its answers on disk.
    """
    if search.block is None:
        found = ledger.evaluation(trial.number, "search")
        return items if found is not None and found.same_as is None and found.failure is None else 0
    order = schedule_of(search, math.ceil(items / search.block)).order(trial.generation)
    return sum(min(search.block, items - search.block * block) for block in order[:blocks])


def answered_by_trial(run: Run) -> dict[int, int]:
    """Search items that each candidate of a run answered itself, by number; empty if the run doesn't say how many
    there are.
    """
    return {trial.number: items for trial, items in _answered(run) if trial.kind is TrialKind.CANDIDATE}


def answered_beyond_baselines(run: Run) -> int:
    """Search items that merges answered which the algorithm asked for, or which came of what it had found: its
    candidates, the rest of the items for the elite, the distribution's mean and a surrogate's merges.
    """
    answered, by_recipe = [*_answered(run)], dict[str, int]()
    for trial, items in answered:
        if trial.kind is TrialKind.CANDIDATE:
            by_recipe.setdefault(trial.recipe_key, items)
    # An elite's answers begin with those of its candidate.
    return sum(
        items - (by_recipe[trial.recipe_key] if trial.kind is TrialKind.ELITE else 0)
        for trial, items in answered
        if not trial.kind.is_baseline
    )


def _answered(run: Run) -> Iterator[tuple[Trial, int]]:
    items = sum(task.get("items", {}).get("search", 0) for task in run.facts.get("benchmark", {}).get("tasks", []))
    if not items:
        return
    ledger, search = run.ledger(), run.config.search
    blocks = blocks_answered(run.directory, run.facts["study"])
    for trial in ledger.trials():
        yield trial, items_answered(search, items, trial, ledger, blocks[trial.number])
