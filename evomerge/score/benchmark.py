"""The benchmark: a fixed, ordered list of items from lm-eval tasks, in three disjoint splits.

Built once, in the driver, with lm-eval's own Task objects: documents, prompts, tokens, filters,
metrics and aggregation are theirs. Workers see tokens only, and their answers come back here.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance

from evomerge.config import BenchmarkConfig, SplitConfig, TaskConfig
from evomerge.errors import BenchmarkError, unknown
from evomerge.score.fitness import Objective
from evomerge.score.prompts import Encoder
from evomerge.score.requests import LogLikelihoodResponse, Request, Response
from evomerge.score.table import ItemTable, TaskScores
from evomerge.streams import stream

SPLITS = ("search", "validation", "test")

# lm-eval's default seed for choosing few-shot examples.
_FEWSHOT_SEED = 1234

_UNREACHABLE = ("ConnectionError", "DatasetNotFoundError", "OfflineModeIsEnabled", "GatedRepoError", "HfHubHTTPError")


@dataclass(frozen=True, slots=True)
class Item:
    """One document of one task: its identity, its place in the task's data and the requests that it makes."""

    id: str
    task: str
    document: Any
    instances: tuple[Instance, ...]
    requests: tuple[tuple[Request, ...], ...]
    """Token requests per instance: one, or several windows of a rolling log-likelihood; repeats included."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One leaf task with what the config says of it."""

    name: str
    task: Any
    metric: str
    higher_is_better: bool
    weight: float
    splits: Mapping[str, SplitConfig]
    place: str


class Benchmark:
    """Items in splits, and how answers to them become scores. Made by `Benchmark.build`."""

    def __init__(
        self,
        tasks: Sequence[_Task],
        splits: Mapping[str, tuple[Item, ...]],
        *,
        num_fewshot: Mapping[str, int],
        ties: bool,
    ) -> None:
        self._tasks = {task.name: task for task in tasks}
        self.splits = dict(splits)
        for task in tasks:
            _remember_documents(task, [item.document for items in splits.values() for item in items])
        self._num_fewshot = dict(num_fewshot)
        self.objective = Objective(
            metrics={task.name: task.metric for task in tasks},
            weights={task.name: task.weight for task in tasks},
            higher_is_better={task.name: task.higher_is_better for task in tasks},
            tie_breaks=ties,
        )

    @classmethod
    def build(
        cls,
        config: BenchmarkConfig,
        tokenizer: Any,
        *,
        model_config: Mapping[str, Any],
        max_length: int | None = None,
        where: str = "config",
        splits: Sequence[str] = SPLITS,
    ) -> Benchmark:
        """Load tasks and data, choose the items of each split, and tokenise every request.

        Args:
            config: the `benchmark` section.
            tokenizer: of the base model.
            model_config: contents of the base's config.json, for its context window.
            max_length: context window in tokens; None takes the model's own.
            where: the config's file, for messages.
            splits: the splits to make, if not all are wanted.

        Raises: BenchmarkError naming the place in the config and what would be right.
        """
        from transformers import PretrainedConfig

        with _undisturbed():
            encoder = Encoder(tokenizer, PretrainedConfig.from_dict(dict(model_config)), max_length=max_length)
            tasks = _load_tasks(config, where, splits)
            made: dict[str, list[Item]] = {split: [] for split in splits}
            for task in tasks:
                for split, items in _items(task, config, encoder).items():
                    made[split] += items
        num_fewshot = {task.name: int(task.task.config.num_fewshot or 0) for task in tasks}
        return cls(
            tasks,
            {name: tuple(items) for name, items in made.items()},
            num_fewshot=num_fewshot,
            ties=config.tie_break,
        )

    def requests(self, split: str) -> tuple[Request, ...]:
        """Every token request of a split, in item order."""
        return tuple(request for item in self.splits[split] for requests in item.requests for request in requests)

    def score(self, split: str, responses: Sequence[Response]) -> ItemTable:
        """Per-item scores of every metric, through the tasks' own filters and metrics.

        Args:
            split: the split that was answered.
            responses: in the order of `requests(split)`.
        """
        answers = iter(responses)
        by_task: dict[str, list[Item]] = defaultdict(list)
        instances: dict[str, list[Instance]] = defaultdict(list)
        for item in self.splits[split]:
            by_task[item.task].append(item)
            for instance, requests in zip(item.instances, item.requests, strict=True):
                instance.resps = _answers(instance, [next(answers) for _ in requests])
                instance.filtered_resps = {}
                instances[item.task].append(instance)
        with _same_random_state():
            return ItemTable(
                tasks={name: self._score_task(name, items, instances[name]) for name, items in by_task.items()}
            )

    def aggregate(self, table: ItemTable) -> dict[str, dict[str, float]]:
        """Each task's metrics over its items, by the tasks' own aggregation functions."""
        found: dict[str, dict[str, float]] = {}
        with _same_random_state():
            for name, scores in table.tasks.items():
                aggregation = self._tasks[name].task.aggregation()
                found[name] = {
                    key: float(aggregation[key.split(",")[0]]([_thawed(value) for value in values]))
                    for key, values in scores.values.items()
                    if key.split(",")[0] in aggregation
                }
        return found

    @property
    def fingerprint(self) -> dict[str, str]:
        """A hash of every item's identity by split; it changes with documents, prompts and their order."""
        return {
            split: hashlib.sha256("\n".join(item.id for item in items).encode()).hexdigest()[:16]
            for split, items in self.splits.items()
        }

    def describe(self) -> dict[str, Any]:
        """What is scored, as plain data for the run directory."""
        return {
            "tasks": [
                {
                    "task": task.name,
                    "metric": task.metric,
                    "higher_is_better": task.higher_is_better,
                    "weight": task.weight,
                    "num_fewshot": self._num_fewshot[task.name],
                    "items": {
                        split: sum(item.task == task.name for item in items) for split, items in self.splits.items()
                    },
                }
                for task in self._tasks.values()
            ],
        }

    def _score_task(self, name: str, items: Sequence[Item], instances: list[Instance]) -> TaskScores:
        task = self._tasks[name].task
        task._instances = instances
        task.apply_filters()
        values: dict[str, list[Any]] = defaultdict(list)
        for filter_name in instances[0].filtered_resps:
            for item in items:
                found = task.process_results(
                    item.document, [instance.filtered_resps[filter_name] for instance in item.instances]
                )
                for metric, value in found.items():
                    values[f"{metric},{filter_name}"].append(_plain(value))
        shares = [_right_share(task, item) for item in items]
        return TaskScores(
            items=tuple(item.id for item in items),
            values={key: tuple(column) for key, column in values.items()},
            tie_break=None if None in shares else tuple(share for share in shares if share is not None),
        )


class _Remembered:
    """A task's reading of its documents, kept for those of the benchmark: templates are slow, documents fixed."""

    def __init__(self, function: Any, documents: Sequence[Any]) -> None:
        self._function = function
        self._documents = {id(document): document for document in documents}
        self._known: dict[int, Any] = {}

    def __call__(self, document: Any, *arguments: Any, **settings: Any) -> Any:
        key = id(document)
        if arguments or settings or key not in self._documents:
            return self._function(document, *arguments, **settings)
        if key not in self._known:
            self._known[key] = self._function(document)
        return copy.copy(self._known[key])


def _remember_documents(task: _Task, documents: Sequence[Any]) -> None:
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        setattr(task.task, name, _Remembered(getattr(task.task, name), documents))


def _answers(instance: Instance, responses: list[Response]) -> list[Any]:
    """Responses in the form in which lm-eval's models return them, one per repeat."""
    if instance.request_type == "loglikelihood_rolling":
        return [sum(item.log_probability for item in responses if isinstance(item, LogLikelihoodResponse))]
    return [
        (item.log_probability, item.is_greedy) if isinstance(item, LogLikelihoodResponse) else item.text
        for item in responses
    ]


def _right_share(task: Any, item: Item) -> float | None:
    """The right choice's share of the choices' probability; None unless the task is a plain multiple choice."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    gold = task.doc_to_text(item.document) if task.multiple_input else task.doc_to_target(item.document)
    choices = task.doc_to_choice(item.document)
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else -1
    right = gold if isinstance(gold, list) else [gold]
    logs = np.array([instance.resps[0][0] for instance in item.instances[: len(choices)]])
    if not all(isinstance(index, int) and 0 <= index < len(logs) for index in right) or not np.isfinite(logs.max()):
        return 0.0
    shares = np.exp(logs - logs.max())
    return float(shares[right].sum() / shares.sum())


def _load_tasks(config: BenchmarkConfig, where: str, wanted: Sequence[str]) -> list[_Task]:
    """The leaf tasks of every entry of the config, loaded with their data."""
    from lm_eval.tasks import TaskManager

    for index, folder in enumerate(config.include_path):
        if not Path(folder).is_dir():
            raise BenchmarkError(f"{where}: benchmark.include_path[{index}]: no such folder: {folder}")
    paths = [str(folder) for folder in config.include_path]
    manager = TaskManager(include_path=paths, include_defaults=False) if paths else None
    if manager is None or any(entry.task not in manager.all_tasks for entry in config.tasks):
        # Reading every built-in task costs seconds, so only when a name isn't among one's own.
        manager = TaskManager(include_path=paths or None)
    found: list[_Task] = []
    for index, entry in enumerate(config.tasks):
        place = f"{where}: benchmark.tasks[{index}]"
        if entry.task not in manager.all_tasks:
            raise BenchmarkError(f"{place}.task: {_unknown_task(entry.task, manager.all_tasks)}")
        leaves = _load(manager, entry, paths, place)
        splits = entry.splits or config.splits
        for name, task in leaves.items():
            if name in {earlier.name for earlier in found}:
                raise BenchmarkError(f"{place}.task: {name} is already part of an earlier entry")
            if entry.num_fewshot is not None:
                task.set_config(key="num_fewshot", value=entry.num_fewshot)
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            metric, higher = _metric(task, entry.metric, place)
            found.append(
                _Task(
                    name=name,
                    task=task,
                    metric=metric,
                    higher_is_better=higher,
                    weight=entry.weight / len(leaves),
                    splits={split: getattr(splits, split) for split in wanted},
                    place=place,
                )
            )
    return found


def _unknown_task(name: str, available: Sequence[str]) -> str:
    message = unknown("task", name, available)
    listed = message.partition(" Available:")[0]
    return f"{listed} `lm-eval ls tasks` lists the built-in ones; your own need benchmark.include_path"


def _load(manager: Any, entry: TaskConfig, paths: Sequence[str], place: str) -> dict[str, Any]:
    """Load one task, group or tag with its overrides. Raises: BenchmarkError if its data can't be had."""
    overrides = {**_local_files(manager, entry.task, paths), **entry.overrides}
    spec: Any = entry.task
    if overrides:
        # A dict is an override of a registered task only inside a group.
        spec = {"group": f"{entry.task} with overrides", "task": [{"task": entry.task, **overrides}]}
    try:
        leaves: dict[str, Any] = manager.load([spec])["tasks"]
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
    for name, task in leaves.items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task.config, "unsafe_code", False):
            raise BenchmarkError(f"{place}.task: {name} runs code that a model wrote, which is not supported")
        if getattr(task, "MULTIMODAL", False):
            raise BenchmarkError(f"{place}.task: {name} needs images or sound; only text is supported")
    return leaves


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


def _metric(task: Any, wanted: str | None, place: str) -> tuple[str, bool]:
    """The metric in full, `metric,filter`, and whether higher is better."""
    filters = [ensemble.name for ensemble in task._filters]
    available = [f"{metric},{name}" for metric in task.aggregation() for name in filters]
    if wanted is None:
        metric = available[0]
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


def _items(task: _Task, config: BenchmarkConfig, encoder: Encoder) -> dict[str, list[Item]]:
    """The task's items by split, each document in one split only."""
    documents = {split: _documents(task, split) for split in task.splits}
    chosen = _choose(task, documents, config.seed)
    _check_overlap(task, documents, chosen, drop=config.overlap == "drop")
    wanted: dict[str, set[int]] = defaultdict(set)
    for split in task.splits:
        wanted[_source(task, split)] |= set(chosen[split])
    built = {
        source: _build(
            task,
            next(documents[split] for split in task.splits if _source(task, split) == source),
            indices,
            config,
            encoder,
        )
        for source, indices in wanted.items()
    }
    return {split: [built[_source(task, split)][index] for index in chosen[split]] for split in task.splits}


def _source(task: _Task, split: str) -> str:
    """Name of the data-set split that a role draws on; "" is the task's own evaluation split."""
    named = task.splits[split].split
    own = task.task.config.test_split or task.task.config.validation_split
    known = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
    if named is None:
        return str(own)
    return str(getattr(task.task.config, known[named], None) or named) if named in known else named


def _documents(task: _Task, split: str) -> Any:
    """Documents of the data-set split that a role draws on. Raises: BenchmarkError if there is none."""
    source = _source(task, split)
    lm_task = task.task
    for field_name, documents in (
        ("test_split", lm_task.test_docs),
        ("validation_split", lm_task.validation_docs),
        ("training_split", lm_task.training_docs),
    ):
        if getattr(lm_task.config, field_name, None) == source:
            return documents()
    available = list(lm_task.dataset)
    if source not in available:
        raise BenchmarkError(
            f"{task.place}: splits.{split}: {task.name} has no data-set split {source!r}; it has {', '.join(available)}"
        )
    documents = lm_task.dataset[source]
    process = lm_task.config.process_docs
    return documents if process is None else process(documents)


def _choose(task: _Task, documents: Mapping[str, Any], seed: int) -> dict[str, list[int]]:
    """Indices of each role's documents. Roles that share a data-set split take disjoint parts, equal texts together."""
    chosen: dict[str, list[int]] = {}
    for source in dict.fromkeys(_source(task, split) for split in task.splits):
        roles = [split for split in task.splits if _source(task, split) == source]
        texts: dict[str, list[int]] = defaultdict(list)
        for index, document in enumerate(documents[roles[0]]):
            texts[_content(task.task, document)].append(index)
        groups = list(texts.values())
        order = stream(seed, "items", task.name, source).permutation(len(groups))
        total, taken = sum(map(len, groups)), 0
        for role in roles:
            settings = task.splits[role]
            if settings.fraction is None and settings.items is None:
                chosen[role] = list(range(total))
                continue
            count = settings.items if settings.items is not None else round((settings.fraction or 0) * total)
            indices: list[int] = []
            while len(indices) < count and taken < len(order):
                indices += groups[order[taken]]
                taken += 1
            if len(indices) < count and settings.items is not None:
                raise BenchmarkError(
                    f"{task.place}: splits.{role}: {count} items asked for, {len(indices)} left of {source!r} "
                    f"of {task.name}"
                )
            chosen[role] = sorted(indices)
        shares = sum(task.splits[role].fraction or 0 for role in roles)
        if shares > 1 + 1e-9:
            raise BenchmarkError(
                f"{task.place}: splits: fractions of {source!r} of {task.name} add up to {shares:g}; at most 1"
            )
    for role in task.splits:
        if not chosen[role]:
            raise BenchmarkError(
                f"{task.place}: splits.{role}: no items: {task.name} has {len(documents[role])} in "
                f"{_source(task, role)!r}; ask for a larger part"
            )
    return chosen


def _check_overlap(task: _Task, documents: Mapping[str, Any], chosen: dict[str, list[int]], *, drop: bool) -> None:
    """Refuse a document that has two roles, or keep only its most precious role: test, then validation."""
    seen: dict[str, str] = {}
    for role in reversed(tuple(task.splits)):
        kept = []
        repeated: list[tuple[str, str]] = []
        for index in chosen[role]:
            content = _content(task.task, documents[role][index])
            if seen.get(content, role) != role:
                repeated.append((seen[content], content))
            else:
                seen[content] = role
                kept.append(index)
        if repeated and not drop:
            other, content = repeated[0]
            raise BenchmarkError(
                f"{task.place}: splits: {len(repeated)} {role} items of {task.name} are also {other} items, such as "
                f"{content[:80]!r}. Choose disjoint splits, or set benchmark.overlap: drop"
            )
        if not kept:
            raise BenchmarkError(f"{task.place}: splits.{role}: every item of {task.name} is also a later split's")
        chosen[role] = kept


def _content(task: Any, document: Any) -> str:
    """What a document asks and answers, without numbering, so that copies are known as such."""
    parts = [task.doc_to_text(document), task.doc_to_target(document)]
    if task.config.doc_to_choice is not None:
        parts.append(task.doc_to_choice(document))
    return json.dumps(parts, ensure_ascii=False, default=str)


def _build(
    task: _Task, documents: Any, indices: set[int], config: BenchmarkConfig, encoder: Encoder
) -> dict[int, Item]:
    """Items of some documents of one data-set split, with the prompts that a stock evaluation of it makes."""
    lm_task = task.task
    # Few-shot examples are drawn document after document, so all of them are gone through in order.
    lm_task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    fewshot = int(lm_task.config.num_fewshot or 0)
    chat = (
        {"apply_chat_template": True, "chat_template": encoder.apply_chat_template}
        if config.apply_chat_template
        else {}
    )
    if config.apply_chat_template and encoder.tokenizer.chat_template is None:
        raise BenchmarkError(f"{task.place}: benchmark.apply_chat_template: the base's tokenizer has no chat template")
    items: dict[int, Item] = {}
    for index, document in enumerate(documents):
        if index > max(indices):
            break
        if index not in indices and not fewshot:
            continue
        context = lm_task.fewshot_context(
            document,
            num_fewshot=fewshot,
            system_instruction=config.system_instruction,
            fewshot_as_multiturn=config.apply_chat_template,
            gen_prefix=lm_task.doc_to_prefix(document),
            **chat,
        )
        if index not in indices:
            continue
        made = lm_task.construct_requests(
            doc=document, ctx=context, metadata=(task.name, index, lm_task.config.repeats), **chat
        )
        instances = tuple(made if isinstance(made, list) else [made])
        items[index] = Item(
            id=_identity(task.name, document, instances),
            task=task.name,
            document=copy.deepcopy(document),
            instances=instances,
            requests=tuple(_encoded(encoder, instance, task, index) for instance in instances),
        )
    return items


def _encoded(encoder: Encoder, instance: Instance, task: _Task, index: int) -> tuple[Request, ...]:
    try:
        return tuple(encoder.encode(instance) * (instance.repeats or 1))
    except BenchmarkError as error:
        raise BenchmarkError(f"{task.place}.task: {task.name}, document {index}: {error}") from error


def _identity(task: str, document: Any, instances: tuple[Instance, ...]) -> str:
    parts = [task, document, [instance.args for instance in instances]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """A metric's value of one item as JSON data."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def _thawed(value: Any) -> Any:
    """Lists back to the tuples that lm-eval's aggregation functions expect."""
    return tuple(_thawed(part) for part in value) if isinstance(value, list) else value


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep lm-eval from changing the process's random state and from filling the log and the screen."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with _same_random_state():
            yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def _same_random_state() -> Iterator[None]:
    import torch

    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
