"""The commands of stock lm-eval that give a merge's test scores, where there are such.

Knows what a run has kept of its test items. Says why where the same items or prompts can't be had by a command.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.config.benchmark import TaskConfig
from evomerge.run.directory import Run

SAMPLES = "test_samples.json"
"""The file beside a card that says which documents of each task were test items."""


def test_samples(run: Run) -> dict[str, list[int]]:
    """By task, the documents that were test items, of tasks where they aren't all of its evaluation split."""
    return {
        task["task"]: list(task["tested"]["documents"])
        for task in run.facts["benchmark"]["tasks"]
        if "tested" in task and task["tested"]["is_stock"] and not task["tested"]["is_whole"]
    }


def samples_file(run: Run) -> dict[str, str]:
    """The file of these, by name; none if nothing needs it."""
    samples = test_samples(run)
    return {SAMPLES: json.dumps(samples) + "\n"} if samples else {}


def stock_commands(run: Run, name: str) -> list[str]:
    """The lines of a section with the commands, empty where the run doesn't know enough.

    Args:
        run: whose test it was.
        name: of the model, as lm-eval is to load it: its folder, or its repository, of which there is a copy then.
    """
    benchmark = run.config.benchmark
    tasks = [task for task in run.facts["benchmark"]["tasks"] if "tested" in task]
    if benchmark.kind != "lm_eval" or not tasks:
        return []
    settings = {entry.task: entry for entry in benchmark.tasks}
    by_shots: dict[int | None, list[str]] = {}
    without: list[str] = []
    for task in tasks:
        reason = _reason(task, settings.get(task["task"]))
        if reason is not None:
            without.append(f"For {task['task']} no command gives it: {reason}.")
        else:
            own = settings.get(task["task"])
            by_shots.setdefault(own.num_fewshot if own is not None else None, []).append(task["task"])
    commands = [_command(run, name, names, shots) for shots, names in by_shots.items()]
    lines = ["## Check", ""]
    if commands:
        folders = [Path(folder).name for folder in benchmark.include_path]
        own_tasks = (
            f", with the tasks of the folder {' and '.join(folders)} (it reads their data files from where it is run)"
            if folders
            else ""
        )
        lines += [f"lm-eval gives the test scores by its own model class{own_tasks}:", "", "```sh"]
        lines += [*commands, "```", ""]
    return [*lines, *(line for reason in without for line in (reason, ""))]


def _reason(task: Mapping[str, Any], settings: TaskConfig | None) -> str | None:
    """Why the test items of a task can't be asked by a command; None if they can."""
    tested = task["tested"]
    if not tested["is_stock"]:
        return f"its test items are of the data-set split {tested['split']}, which the task itself isn't evaluated on"
    if settings is not None and settings.overrides:
        return f"the config replaces keys of the task ({', '.join(settings.overrides)})"
    if settings is None:
        return "it is of a group, whose settings are the group's"
    if task.get("num_fewshot") and not tested["is_whole"]:
        return "its test items are a part of its data, for which lm-eval draws other examples into the prompts"
    return None


def _command(run: Run, name: str, tasks: Sequence[str], shots: int | None) -> str:
    benchmark, length = run.config.benchmark, run.config.execution.max_length
    model = f"pretrained={name},dtype={run.facts.get('compute_dtype', run.facts['dtype'])}" + (
        f",max_length={length}" if length else ""
    )
    parts = ["lm_eval", "--model", "hf", "--model_args", model, "--tasks", ",".join(tasks)]
    for folder in benchmark.include_path:
        parts += ["--include_path", Path(folder).name]
    if shots is not None:
        parts += ["--num_fewshot", str(shots)]
    if benchmark.apply_chat_template:
        parts += ["--apply_chat_template"]
        if benchmark.fewshot_as_multiturn is not False:
            parts += ["--fewshot_as_multiturn"]
    if benchmark.system_instruction is not None:
        parts += ["--system_instruction", benchmark.system_instruction]
    if benchmark.confirm_run_unsafe_code:
        parts += ["--confirm_run_unsafe_code"]
    if set(tasks) & set(test_samples(run)):
        parts += ["--samples", f"{name}/{SAMPLES}"]
    return shlex.join(parts)
