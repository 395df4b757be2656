"""`evomerge score`: a model on tasks, exactly as a search would score it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli.models import Split

if TYPE_CHECKING:
    from rich.table import Table

    from evomerge.study.score_model import TaskScore


class Dtype(StrEnum):
    """Number formats of a live model."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class ComputeDtype(StrEnum):
    """Number formats that a live model computes in."""

    auto = "auto"
    stored = "stored"
    float32 = "float32"


def score(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or a hub id.", show_default=False)],
    tasks: Annotated[
        str | None, typer.Option(help="Names of lm-eval tasks, separated by commas: all their items.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="An experiment's YAML file instead: its tasks, metrics and items.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Which of the experiment's items.")] = Split.test,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples in the prompt. Default: the task's own.", show_default=False)
    ] = None,
    include_path: Annotated[
        list[Path] | None, typer.Option(help="A folder with task YAMLs of your own; may be repeated.")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(help="The first items of each task; below 1, a share.", show_default=False),
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of the model. Default: the config's, or its own.", show_default=False)
    ] = None,
    compute_dtype: Annotated[
        ComputeDtype | None,
        typer.Option(help="Computed in. Default: the config's, or what this CPU is fast in.", show_default=False),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sequences in a batch. Default: what memory holds.", show_default=False)
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Put prompts into the tokenizer's chat template.")
    ] = False,
    system_instruction: Annotated[
        str | None, typer.Option(help="What goes before each prompt, as a system message.", show_default=False)
    ] = None,
) -> None:
    """Score a model folder exactly as a search would.

    **Examples:** `evomerge score swahili-7b --tasks xcopa_sw,belebele_swh_Latn --limit 100`,
    `evomerge score other-model --config configs/swahili.yaml --split test`
    """
    if (tasks is None) == (config is None):
        raise typer.BadParameter("give either --tasks or --config")
    if limit is not None and (limit <= 0 or (limit > 1 and limit != int(limit))):
        raise typer.BadParameter("--limit: give a whole number of items, or a share between 0 and 1")
    if config is not None and (num_fewshot is not None or include_path):
        raise typer.BadParameter("--num-fewshot and --include-path are for --tasks; the config has its own")
    from evomerge.cli.console import say, stderr, stdout
    from evomerge.config.benchmark import BenchmarkConfig, TaskConfig
    from evomerge.config.config import Config
    from evomerge.config.execution import ExecutionConfig

    def doing(what: str) -> None:
        say(stderr(), f"{what} ...")

    if config is not None:
        experiment = Config.from_file(config)
        benchmark, execution, where = experiment.benchmark, experiment.execution, str(config)
    else:
        names = [name for name in dict.fromkeys(map(str.strip, (tasks or "").split(","))) if name]
        if not names:
            raise typer.BadParameter("--tasks names no task")
        benchmark = BenchmarkConfig(
            tasks=tuple(TaskConfig(task=name, num_fewshot=num_fewshot) for name in names),
            include_path=tuple(str(path.resolve()) for path in include_path or ()),
        )
        execution, where = ExecutionConfig(), "--tasks"
    changes: dict[str, Any] = {"apply_chat_template": True} if apply_chat_template else {}
    if system_instruction is not None:
        changes["system_instruction"] = system_instruction
    if dtype is not None:
        execution = execution.model_copy(update={"dtype": dtype.value})
    if compute_dtype is not None:
        execution = execution.model_copy(update={"compute_dtype": compute_dtype.value})
    # Takes seconds, so after what can be refused without it.
    from evomerge.study.score_model import evaluate

    found = evaluate(
        model,
        benchmark.model_copy(update=changes),
        split=split.value if config is not None else None,
        execution=execution,
        where=where,
        limit=limit,
        batch_size=batch_size,
        report=doing,
    )
    stdout().print(_score_table(found))


def _score_table(scores: list[TaskScore]) -> Table:
    from evomerge.cli.console import table
    from evomerge.score.numbers import interval

    made = table("task", "metric", "items", "score, with 95% interval", right=("items",))
    for task in scores:
        for metric, value in task.metrics.items():
            bounds = task.interval if metric == task.metric else None
            made.add_row(
                task.task, metric, str(task.items), f"{value:.4f}" if bounds is None else interval(value, bounds)
            )
    return made
