"""Loading tasks: the config's entries become lm-eval's own Task objects, with the metric to be scored by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.benchmark.base import SPLITS
from evomerge.benchmark.lm_eval.index import all_tasks
from evomerge.benchmark.lm_eval.isolation import undisturbed
from evomerge.benchmark.lm_eval.language import check_language
from evomerge.config.benchmark import BenchmarkConfig, LanguageConfig, SplitConfig, TaskConfig
from evomerge.errors import BenchmarkError, unknown
from evomerge.files.places import is_folder
from evomerge.score.objective import LANGUAGE

_UNREACHABLE = ("ConnectionError", "DatasetNotFoundError", "OfflineModeIsEnabled", "GatedRepoError", "HfHubHTTPError")


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """One leaf task with what the config says of it."""

    name: str
    task: Any
    metric: str
    higher_is_better: bool
    weight: float
    splits: Mapping[str, SplitConfig]
    place: str
    language: LanguageConfig | None = None
    parallel: str | None = None

    @property
    def metrics(self) -> list[str]:
        """Every metric in full, `metric,filter`: the task's own, and the language of its text if that is asked for."""
        return [*metrics_of(self.task), *([LANGUAGE] if self.language is not None else [])]


@dataclass(frozen=True, slots=True)
class LoadedGroup:
    """A group among the entries, for which lm-eval adds its tasks up."""

    name: str
    group: Any
    tasks: tuple[str, ...]
    by_size: bool
    """Whether its tasks count by their numbers of items, for the metric that they are scored by."""


def check_tasks(config: BenchmarkConfig, where: str) -> None:
    """Load the tasks of a config with their data, to find what is wrong with them without a base.

    Raises: BenchmarkError, as `load_tasks`.
    """
    with undisturbed():
        load_tasks(config, where, SPLITS)


def task_manager(config: BenchmarkConfig, where: str) -> Any:
    """lm-eval's index of tasks, read without running code. Raises: BenchmarkError for a folder that isn't there."""
    paths = [str(folder) for folder in config.include_path]
    manager = own_tasks(config, where) if paths else None
    if manager is None or any(entry.task not in manager.all_tasks for entry in config.tasks):
        # The built-in tasks take long, the first time many seconds, so only when a name isn't among one's own.
        manager = all_tasks(paths)
    return manager


def own_tasks(config: BenchmarkConfig, where: str) -> Any:
    """lm-eval's index of the tasks in `include_path` alone. Raises: BenchmarkError for a folder that isn't there."""
    from lm_eval.tasks import TaskManager

    for index, folder in enumerate(config.include_path):
        if not is_folder(Path(folder)):
            raise BenchmarkError(f"{where}: benchmark.include_path[{index}]: no such folder: {folder}")
    return TaskManager(include_path=[str(folder) for folder in config.include_path], include_defaults=False)


def load_tasks(
    config: BenchmarkConfig, where: str, wanted: Sequence[str]
) -> tuple[list[LoadedTask], list[LoadedGroup]]:
    """The leaf tasks of every entry of the config, loaded with their data, and the entries that are groups.

    Args:
        config: the `benchmark` section.
        where: the config's file, for messages.
        wanted: the splits to be made.

    Raises: BenchmarkError for tasks and metrics that don't exist, and data that can't be had.
    """
    paths = [str(folder) for folder in config.include_path]
    manager = task_manager(config, where)
    found: list[LoadedTask] = []
    groups: list[LoadedGroup] = []
    for index, entry in enumerate(config.tasks):
        place = f"{where}: benchmark.tasks[{index}]"
        if entry.task not in manager.all_tasks:
            raise BenchmarkError(f"{place}.task: {_unknown_task(entry.task, manager.all_tasks)}")
        leaves, group = _load(manager, entry, paths, place)
        for name, task in leaves.items():
            _refuse_unsafe(name, task, entry, config.confirm_run_unsafe_code or (), place)
        rules = (group.aggregate_metric_list if group is not None else None) or []
        splits = entry.splits or config.splits
        for name, task in leaves.items():
            if name in {earlier.name for earlier in found}:
                raise BenchmarkError(f"{place}.task: {name} is already part of an earlier entry")
            if entry.num_fewshot is not None:
                task.set_config(key="num_fewshot", value=entry.num_fewshot)
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            if entry.language is not None:
                check_language(entry.language, task, place)
            metric, higher = _metric(task, entry, place, rules)
            found.append(
                LoadedTask(
                    name=name,
                    task=task,
                    metric=metric,
                    higher_is_better=higher,
                    weight=entry.weight / len(leaves),
                    splits={split: getattr(splits, split) for split in wanted},
                    place=place,
                    language=entry.language,
                    parallel=entry.parallel,
                )
            )
        if rules:
            metrics = {task.metric for task in found if task.name in leaves}
            by_size = any(rule.weight_by_size and metrics <= set(_rule_metrics(rule, metrics)) for rule in rules)
            groups.append(LoadedGroup(name=entry.task, group=group, tasks=tuple(leaves), by_size=by_size))
    return found, groups


def _rule_metrics(rule: Any, metrics: Iterable[str]) -> list[str]:
    """Those of the metrics, `metric,filter`, that a group's rule adds up."""
    return [
        key
        for key in metrics
        if key.split(",")[0] == rule.metric and (rule.filter_list is None or key.split(",")[1] in rule.filter_list)
    ]


def _refuse_unsafe(name: str, task: Any, entry: TaskConfig, confirmed: Sequence[str], place: str) -> None:
    """Raises: BenchmarkError for a task that runs a model's code without leave, or that needs more than text."""
    unsafe = getattr(task, "UNSAFE_CODE", False) or getattr(task.config, "unsafe_code", False)
    if unsafe and not {name, entry.task} & set(confirmed):
        raise BenchmarkError(
            f"{place}.task: {name} runs code that a model wrote on this machine. If that is safe here, for example in "
            f"a container, allow it with benchmark.confirm_run_unsafe_code: [{name}]"
        )
    if getattr(task, "MULTIMODAL", False):
        raise BenchmarkError(f"{place}.task: {name} needs images or sound; only text is supported")


def _unknown_task(name: str, available: Sequence[str]) -> str:
    message = unknown("task", name, available)
    listed = message.partition(" Available:")[0]
    return f"{listed} `lm-eval ls tasks` lists the built-in ones; your own need benchmark.include_path"


def _load(manager: Any, entry: TaskConfig, paths: Sequence[str], place: str) -> tuple[dict[str, Any], Any]:
    """Load one task, group or tag with its overrides: the leaf tasks by name, and the group if it is one.

    Raises: BenchmarkError if its data can't be had.
    """
    overrides = {**_local_files(manager, entry.task, paths), **entry.overrides}
    spec: Any = entry.task
    if overrides:
        # A dict is an override of a registered task only inside a group.
        spec = {"group": f"{entry.task} with overrides", "task": [{"task": entry.task, **overrides}]}
    try:
        loaded = manager.load([spec])
    except Exception as error:
        names = {type(found).__name__ for found in _chain(error)}
        unreachable = bool(names & set(_UNREACHABLE))
        advice = (
            "Connect to the network, log in if the data set is gated, or point its dataset_path at a local copy "
            f"under {place.rpartition(': ')[2]}.overrides"
            if unreachable
            else "Check the task's YAML and data"
        )
        raise BenchmarkError(
            f"{place}.task: {entry.task} can't be loaded: {type(error).__name__}: {error}. {advice}",
            unreachable=unreachable,
        ) from error
    return loaded["tasks"], loaded.get("groups", {}).get(entry.task)


def _local_files(manager: Any, name: str, paths: Sequence[str]) -> dict[str, Any]:
    """Relative data files of a local task, made absolute: from the working directory, else from its YAML's folder."""
    entry = manager.task_index[name]
    settings = dict((entry.cfg or {}).get("dataset_kwargs") or {})
    files = settings.get("data_files")
    if entry.yaml_path is None or not files:
        return {}
    folders = [Path.cwd(), Path(entry.yaml_path).parent]
    for path in paths:
        folders += [Path(path), Path(path).parent]

    def absolute(file: Any) -> Any:
        if isinstance(file, list):
            return [absolute(part) for part in file]
        if isinstance(file, Mapping):
            return {split: absolute(part) for split, part in file.items()}
        return next((str(folder / file) for folder in folders if (folder / file).exists()), file)

    settings["data_files"] = absolute(files)
    return {"dataset_kwargs": settings}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def metrics_of(task: Any) -> list[str]:
    """Every metric of lm-eval's Task in full, `metric,filter`, in the order of its YAML."""
    filters = [ensemble.name for ensemble in task._filters]
    return [f"{metric},{name}" for metric in task.aggregation() for name in filters]


def _metric(task: Any, entry: TaskConfig, place: str, rules: Sequence[Any]) -> tuple[str, bool]:
    """The metric in full, `metric,filter`, and whether higher is better.

    Where none is wanted, it is the first that the rules of the task's group add up, else the task's first.
    """
    wanted = entry.metric
    available = [*metrics_of(task), *([LANGUAGE] if entry.language is not None else [])]
    if wanted is None:
        metric = next((key for rule in rules for key in _rule_metrics(rule, available)), available[0])
    elif wanted in available:
        metric = wanted
    else:
        matching = [key for key in available if key.split(",")[0] == wanted]
        if not matching:
            raise BenchmarkError(f"{place}.metric: {unknown('metric', wanted, available)}")
        if len(matching) > 1:
            raise BenchmarkError(
                f"{place}.metric: {wanted!r} is computed after several filters; choose one of {', '.join(matching)}"
            )
        metric = matching[0]
    return metric, bool(task.higher_is_better().get(metric.split(",")[0], True))
