"""How many search items candidates have answered, by what is recorded.

Loads no models. Does not know what that is worth, or how much of it is allowed.
"""

from __future__ import annotations

import math

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
    """How many search items a candidate answered itself; none if it took over another's result.

    Args:
        search: the section of the config.
        items: search items there are.
        trial: the candidate.
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
    items = sum(task.get("items", {}).get("search", 0) for task in run.facts.get("benchmark", {}).get("tasks", []))
    if not items:
        return {}
    ledger, search = run.ledger(), run.config.search
    blocks = blocks_answered(run.directory, run.facts["study"])
    return {
        trial.number: items_answered(search, items, trial, ledger, blocks[trial.number])
        for trial in ledger.trials()
        if trial.kind is TrialKind.CANDIDATE
    }
