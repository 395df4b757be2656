"""Scoring one model folder exactly as a search would score it, without a search."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evomerge.benchmark import SPLITS, Benchmark
from evomerge.benchmark.base import FixedItems
from evomerge.benchmark.clusters import by_task
from evomerge.config.benchmark import BenchmarkConfig, SplitConfig
from evomerge.config.config import Config
from evomerge.config.execution import ExecutionConfig
from evomerge.config.models import ModelConfig, ModelsConfig
from evomerge.errors import BenchmarkError, ExecutionError, counted
from evomerge.estimate.clusters import Clusters, clustered_interval
from evomerge.execute.base import Failure, Job, Outcome, WorkerSettings
from evomerge.execute.settings import arithmetic_of, make_executor, worker_settings
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.recipe import Recipe
from evomerge.run.recipes import checkpoint_recipe, template_recipe
from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest, Request
from evomerge.score.table import ItemTable
from evomerge.study.arithmetic import remarks
from evomerge.study.experiment import open_benchmark


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One task's or group's result: every metric, and the chosen one with its 95% interval, by clusters of items where
    there are any.
    """

    task: str
    items: int
    metric: str
    score: float
    interval: tuple[float, float]
    metrics: Mapping[str, float]


def evaluate(
    model: str,
    benchmark: BenchmarkConfig,
    *,
    split: str | None = None,
    execution: ExecutionConfig | None = None,
    where: str = "config",
    limit: float | None = None,
    batch_size: int | None = None,
    report: Callable[[str], None] = lambda doing: None,
) -> list[TaskScore]:
    """Score a model on a benchmark.

    Args:
        model: a folder or a hub id.
        benchmark: the tasks, and for a `split` how items are divided.
        split: search, validation or test, with the items that a search over `benchmark` would take; None
            takes every item that each task is evaluated on.
        execution: where and how; the default decides by itself.
        where: the config's file, for messages.
        limit: the first so many items of each task, or that share of them if it is below 1, as in lm-eval.
        batch_size: sequences in a batch, reckoned by the longest; None sizes batches to memory. Scores don't depend
            on it.
        report: called with what is being done, before it is.

    Returns: the tasks, and after them the groups that lm-eval adds up.
    Raises: CheckpointError, BenchmarkError, ExecutionError for what can't be used; ExecutionError if the
        model can't be scored, for example because its weights aren't finite.
    """
    config = _experiment(model, benchmark, execution or ExecutionConfig(), whole=split is None)
    report("opening the model and building the benchmark")
    checkpoint = Checkpoint.open(config.models.base.reference())
    chosen = split or "test"
    built = open_benchmark(config, checkpoint, where=where, splits=SPLITS if split else (chosen,))
    if limit is not None:
        _limit(built, chosen, limit)
    if batch_size is not None:
        longest = max(map(_length, built.requests(chosen)), default=1)
        own = config.execution.model_copy(update={"batch_tokens": batch_size * longest})
        config = config.model_copy(update={"execution": own})
    settings = worker_settings(config, dtype=str(checkpoint.dtype).removeprefix("torch."))
    said = remarks(arithmetic_of(config.execution, settings.dtype), settings.dtype)
    report("; ".join([f"scoring {counted(len(built.splits[chosen]), 'item')}", *said]))
    recipe = checkpoint_recipe(template_recipe(config, dtype=settings.dtype, options={}), "base")
    outcome = _answer(config.execution, settings, built, recipe, chosen)
    if isinstance(outcome, Failure):
        raise ExecutionError(f"{model} can't be scored: {outcome.reason}: {outcome.message}")
    return _scores(built, built.score(chosen, outcome.responses), by_task(built.splits[chosen]))


def _limit(benchmark: Benchmark, split: str, limit: float) -> None:
    """Keep the first items of each task. Raises: BenchmarkError if the benchmark's items aren't a list."""
    if not isinstance(benchmark, FixedItems):
        raise BenchmarkError("this kind of benchmark has no items to limit; leave out --limit")
    sizes = Counter(item.task for item in benchmark.splits[split])
    most = {task: math.ceil(size * limit) if limit < 1 else int(limit) for task, size in sizes.items()}
    kept, seen = [], Counter[str]()
    for item in benchmark.splits[split]:
        seen[item.task] += 1
        if seen[item.task] <= most[item.task]:
            kept.append(item)
    benchmark.splits[split] = tuple(kept)


def _length(request: Request) -> int:
    """Tokens of a sequence, with those that may be generated."""
    if isinstance(request, LogLikelihoodRequest):
        return len(request.context) + len(request.continuation)
    return len(request.context) + request.max_tokens if isinstance(request, GenerationRequest) else 1


def _experiment(model: str, benchmark: BenchmarkConfig, execution: ExecutionConfig, *, whole: bool) -> Config:
    """The model as a base without changes, on all items of each task if `whole`."""
    if whole:
        splits = benchmark.splits.model_copy(update={"test": SplitConfig()})
        tasks = tuple(task.model_copy(update={"splits": None}) for task in benchmark.tasks)
        benchmark = benchmark.model_copy(update={"splits": splits, "tasks": tasks})
    place = ModelConfig(path=model)
    return Config(models=ModelsConfig(base=place, experts={"model": place}), benchmark=benchmark, execution=execution)


def _answer(
    execution: ExecutionConfig, settings: WorkerSettings, benchmark: Benchmark, recipe: Recipe, split: str
) -> Outcome:
    executor = make_executor(execution, settings)
    try:
        executor.add_requests(split, benchmark.requests(split))
        ((_, outcome),) = executor.run([Job(number=0, recipe=recipe, split=split)])
        return outcome
    finally:
        executor.close()


def _scores(benchmark: Benchmark, table: ItemTable, clusters: Clusters | None) -> list[TaskScore]:
    aggregates, objective = benchmark.aggregate(table), benchmark.objective
    # Scores are shown as lm-eval prints them, also where lower is better.
    (samples,) = benchmark.samples([table], signed=False)
    found = []
    for task, metric in objective.metrics.items():
        found.append(
            TaskScore(
                task=task,
                items=len(table.tasks[task].items),
                metric=metric,
                score=aggregates[task][metric],
                interval=clustered_interval({task: samples[task]}, {task: 1.0}, clusters),
                metrics=aggregates[task],
            )
        )
    weights = objective.weights_for(table.sizes)
    for group, tasks in benchmark.groups.items():
        metrics = {objective.metrics[task] for task in tasks}
        metric = metrics.pop()
        if metrics or metric not in aggregates[group]:
            # Its tasks are scored by another metric than the group adds up.
            continue
        found.append(
            TaskScore(
                task=group,
                items=sum(table.sizes[task] for task in tasks),
                metric=metric,
                score=aggregates[group][metric],
                interval=clustered_interval({task: samples[task] for task in tasks}, weights, clusters),
                metrics=aggregates[group],
            )
        )
    return found
