"""What a search may spend, before it runs: whether that is enough, what it pays for, how it may grow.

Does not know what has been spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.algorithms.surrogate import FEWEST_GENERATIONS
from evomerge.config.config import Config
from evomerge.config.search import SearchConfig
from evomerge.errors import ConfigError, ResumeError
from evomerge.execute.settings import gpus_of
from evomerge.study.experiment import Experiment


def budget_of(config: Config) -> dict[str, Any]:
    """What a finished search may be continued with more of, as result.json has it."""
    return config.search.model_dump(include=config.search.spendable)


def grown(
    search: SearchConfig, *, evaluations: int | None, hours: float | None, items: int | None, gpu_hours: float | None
) -> SearchConfig:
    """The section with a larger budget; None leaves a limit as it is. Raises: ResumeError."""
    budget = search.budget
    if items is not None:
        if budget.items is None:
            raise ResumeError("--items: the run has no limit of items; use --evaluations")
        if items < budget.items:
            raise ResumeError(f"--items {items} is below the run's {budget.items}; a budget can only grow")
        if not search.is_limited:
            search = search.model_copy(update={"evaluations": max(search.evaluations, items)})
        budget = budget.model_copy(update={"items": items})
    if evaluations is not None:
        if not search.is_limited:
            raise ResumeError("--evaluations: the run limits the items that candidates answer; use --items")
        if evaluations < search.evaluations:
            raise ResumeError(
                f"--evaluations {evaluations} is below the run's {search.evaluations}; a budget can only grow"
            )
        search = search.model_copy(update={"evaluations": evaluations})
    if gpu_hours is not None:
        budget = budget.model_copy(update={"gpu_hours": gpu_hours})
    return search.model_copy(update={"budget": budget} | ({} if hours is None else {"hours": hours}))


def check_budget(experiment: Experiment, population: int) -> None:
    """Find whether the budget is enough for a generation, and can be counted.

    Args:
        experiment: with its benchmark.
        population: candidates of a generation.

    Raises: ConfigError.
    """
    search, where = experiment.config.search, experiment.where
    if search.budget.gpu_hours is not None and not gpus_of(experiment.config.execution):
        raise ConfigError(
            f"{where}: search.budget.gpu_hours: candidates are evaluated on CPUs, so no hours of GPUs are spent; use "
            "search.budget.hours, or run where there are GPUs (execution.device)"
        )
    if search.budget.items is None:
        return
    each = search.items_of_candidate(len(experiment.benchmark.splits["search"]))
    needed = min(population, search.evaluations) * each
    if search.budget.items < needed:
        raise ConfigError(
            f"{where}: search.budget.items: {search.budget.items:,} is less than a generation may cost: "
            f"{population} candidates with up to {each:,} items each; give at least {needed:,}, or fewer items or "
            "candidates (search.population)"
        )


def spending(search: SearchConfig, items: Mapping[str, int], evaluations: Mapping[str, int]) -> list[str]:
    """What a search spends where, in sentences, before it runs.

    Args:
        search: the section of the config.
        items: by split.
        evaluations: of each phase, in candidates that answer all that they may.
    """
    count, share = items["search"], search.items_of_candidate(items["search"])
    worth, most = search.candidates_worth(count), search.candidates_at_most(count)
    limit = worth * share if search.budget.items is None else min(most * share, search.budget.items)
    number = f"{worth:,}" if worth == most else f"{worth:,} to {most:,}"
    later = {split: evaluations[split] * items[split] for split in ("validation", "test")}
    found = [
        f"item evaluations: {evaluations['baselines'] * count:,} by the base, experts and other merges at the start, "
        f"then at most {limit:,} by candidates ({number} of them, {share:,} each at most), at most "
        f"{later['validation']:,} on validation and {later['test']:,} on test items"
    ]
    if search.pruner != "none" or share < count:
        found.append(
            f"beside the budget, up to {search.shortlist} of the best that were stopped answer the search items that "
            "they haven't"
        )
    if search.surrogate_every:
        turns = "each generation" if search.surrogate_every == 1 else f"one in {search.surrogate_every} generations"
        found.append(f"after the first {FEWEST_GENERATIONS}, {turns} has one candidate that a surrogate proposes")
    if search.surrogate:
        found.append(
            f"beside the budget, up to {search.surrogate} that a surrogate proposes at the end answer all search items"
        )
    ends = [f"{search.evaluations:,} candidates"] if search.is_limited else []
    ends += [] if search.budget.items is None else [f"{search.budget.items:,} item evaluations by candidates"]
    ends += [] if search.hours is None else [f"{search.hours:g} hours of driving"]
    ends += [] if search.budget.gpu_hours is None else [f"{search.budget.gpu_hours:g} hours of GPUs"]
    found.append(f"the search ends after {' or '.join(ends)}" + (", whichever is first" if len(ends) > 1 else ""))
    return found
