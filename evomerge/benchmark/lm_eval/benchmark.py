"""The benchmark: a fixed, ordered list of items from lm-eval tasks, in three disjoint splits.

Built once, in the driver, with lm-eval's own Task objects: documents, prompts, tokens, filters,
metrics and aggregation are theirs. Workers see tokens only, and their answers come back here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.benchmark.base import SPLITS, BaseModel, FixedItems
from evomerge.benchmark.clusters import kept_apart
from evomerge.benchmark.contamination import NearDuplicate, Text, near_duplicates, sentences, strings
from evomerge.benchmark.lm_eval.documents import source_of, source_of_task
from evomerge.benchmark.lm_eval.isolation import compile_templates_once, same_random_state, undisturbed
from evomerge.benchmark.lm_eval.items import Item, build_items
from evomerge.benchmark.lm_eval.language import identifier_of
from evomerge.benchmark.lm_eval.prompts import Encoder
from evomerge.benchmark.lm_eval.references import reference_of
from evomerge.benchmark.lm_eval.scoring import (
    aggregate_task,
    aggregation_of,
    put_answers,
    remember_documents,
    score_task,
    task_samples,
)
from evomerge.benchmark.lm_eval.tasks import LoadedGroup, LoadedTask, load_tasks
from evomerge.config.benchmark import BenchmarkConfig, LanguageConfig
from evomerge.errors import BenchmarkError
from evomerge.estimate.intervals import Sample
from evomerge.score.objective import LanguageRule, Objective
from evomerge.score.requests import LogLikelihoodRequest, Request, Response
from evomerge.score.table import ItemTable


class Benchmark(FixedItems[Item]):
    """Items in splits, and how answers to them become scores. Made by `Benchmark.build`."""

    def __init__(
        self,
        tasks: Sequence[LoadedTask],
        splits: Mapping[str, tuple[Item, ...]],
        *,
        num_fewshot: Mapping[str, int],
        ties: bool,
        groups: Sequence[LoadedGroup] = (),
        window: int = 0,
        seed: int = 0,
        alike: Sequence[NearDuplicate] = (),
        encoder: Encoder | None = None,
    ) -> None:
        self._encoder = encoder
        self._alike = tuple(alike)
        self._groups = tuple(groups)
        self._window = window
        self._tasks = {task.name: task for task in tasks}
        super().__init__(splits, seed=seed)
        for task in tasks:
            remember_documents(task.task, [item.document for items in splits.values() for item in items])
        self._num_fewshot = dict(num_fewshot)
        self.objective = Objective(
            metrics={task.name: task.metric for task in tasks},
            weights={task.name: task.weight for task in tasks},
            higher_is_better={task.name: task.higher_is_better for task in tasks},
            tie_breaks=ties,
            by_size=tuple(frozenset(group.tasks) for group in groups if group.by_size),
            languages={
                task.name: LanguageRule(at_least=task.language.at_least, penalty=task.language.penalty)
                for task in tasks
                if task.language is not None
            },
            means=frozenset(task.name for task in tasks if aggregation_of(task.task, task.metric)[1] == "mean"),
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

        compile_templates_once()
        with undisturbed():
            encoder = Encoder(tokenizer, PretrainedConfig.from_dict(dict(model_config)), max_length=max_length)
            tasks, groups = load_tasks(config, where, splits)
            made: dict[str, list[Item]] = {split: [] for split in splits}
            for task in tasks:
                for split, items in build_items(task, config, encoder).items():
                    made[split] += items
        if config.cluster is not None:
            made = kept_apart(made, drop=config.overlap == "drop", where=where)
        alike = near_duplicates(
            {role: [Text(item.id, item.task, strings(item.document)) for item in items] for role, items in made.items()}
        )
        made = _without(made, alike, config.near_duplicates, where)
        num_fewshot = {task.name: int(task.task.config.num_fewshot or 0) for task in tasks}
        return cls(
            tasks,
            {name: tuple(items) for name, items in made.items()},
            num_fewshot=num_fewshot,
            ties=config.tie_break,
            groups=groups,
            window=encoder.max_length,
            seed=config.seed,
            alike=() if config.near_duplicates == "drop" else alike,
            encoder=encoder,
        )

    def requests_of(self, item: Item) -> tuple[Request, ...]:
        """Every token request of an item."""
        return tuple(request for requests in item.requests for request in requests)

    def references(self, split: str) -> dict[str, tuple[LogLikelihoodRequest, ...]]:
        """The reference answers of each task's items: right choices, and the targets of what is generated.

        Raises: BenchmarkError naming the task whose documents don't say what is right.
        """
        assert self._encoder is not None
        found: dict[str, list[LogLikelihoodRequest]] = {name: [] for name in self._tasks}
        with same_random_state():
            for item in self.splits[split]:
                task = self._tasks[item.task]
                try:
                    found[item.task] += reference_of(task.task, item, self._encoder)
                except BenchmarkError as error:
                    raise BenchmarkError(f"{task.place}.task: {task.name}, item {item.id}: {error}") from error
        return {name: tuple(own) for name, own in found.items()}

    def score(self, split: str, responses: Sequence[Response], *, items: Sequence[int] | None = None) -> ItemTable:
        """Per-item scores of every metric, through the tasks' own filters and metrics.

        Args:
            split: the split that was answered.
            responses: in the order of `requests(split)`.
            items: positions of the items that were answered, if not all; responses then are those of `places`.
        """
        answers = iter(responses)
        by_task: dict[str, list[Item]] = defaultdict(list)
        tokens: dict[str, list[int]] = defaultdict(list)
        chosen = range(len(self.splits[split])) if items is None else sorted(items)
        for item in (self.splits[split][position] for position in chosen):
            by_task[item.task].append(item)
            tokens[item.task].append(put_answers(item, answers))
        with same_random_state():
            return ItemTable(
                tasks={
                    name: score_task(self._tasks[name].task, items, tokens[name], language=self._tasks[name].language)
                    for name, items in by_task.items()
                }
            )

    def aggregate(self, table: ItemTable) -> dict[str, dict[str, float]]:
        """Each task's and group's metrics over the items, by lm-eval's own aggregation.

        Raises: BenchmarkError if a chosen metric can't be computed over these items.
        """
        with same_random_state():
            found = {
                name: aggregate_task(self._tasks[name].task, scores, chosen=self._tasks[name].metric)
                for name, scores in table.tasks.items()
            }
        sizes = table.sizes
        sums = {
            group.name: group.group.aggregate(
                {name: {**found[name], "sample_len": sizes[name]} for name in group.tasks if name in found}
            )
            for group in self._groups
        }
        return found | {
            name: {key: float(value) for key, value in metrics.items() if "," in key and isinstance(value, int | float)}
            for name, metrics in sums.items()
        }

    def samples(self, tables: Sequence[ItemTable], *, signed: bool = True) -> list[dict[str, Sample]]:
        """The chosen metric of several models on the same items, by task, for intervals and comparisons.

        Args:
            tables: one per model.
            signed: whether higher is better in all of them, or values are as lm-eval prints them.
        """
        found: list[dict[str, Sample]] = [{} for _ in tables]
        for name, task in self._tasks.items():
            columns = [table.tasks[name].values[task.metric] for table in tables]
            sign = self.objective.sign(name) if signed else 1.0
            for samples, sample in zip(found, task_samples(task.task, columns, task.metric, sign=sign), strict=True):
                samples[name] = sample
        return found

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The tasks of each group that lm-eval adds up."""
        return {group.name: group.tasks for group in self._groups}

    @property
    def languages(self) -> dict[str, dict[str, Any]]:
        """What is asked of the language of each task's text, as plain data; tasks of which nothing is left out."""
        return {task.name: _described(task.language) for task in self._tasks.values() if task.language is not None}

    @property
    def notes(self) -> list[str]:
        """Which items nearly repeat one of another role."""
        return sentences(self._alike)

    @property
    def searched_publicly(self) -> list[str]:
        """A sentence for each task whose search or validation items are of the split that lm-eval evaluates."""
        found = []
        for task in self._tasks.values():
            own = source_of_task(task)
            roles = [split for split in self.splits if split != "test" and source_of(task, split) == own]
            if roles:
                found.append(
                    f"{task.name}: {' and '.join(roles)} items are of its {own!r} split, which lm-eval evaluates: "
                    "a score on that whole split isn't held out for the merge; only the test items here are"
                )
        return found

    @property
    def truncated(self) -> list[str]:
        """A sentence for each task and split with prompts that lose their beginning to the context window."""
        found = []
        for split, items in self.splits.items():
            for name in self._tasks:
                own = [item.cut for item in items if item.task == name]
                cut = [tokens for tokens in own if tokens]
                if cut:
                    found.append(
                        f"{len(cut)} of {len(own)} {split} items of {name} are longer than the context window of "
                        f"{self._window} tokens and lose up to {max(cut)} tokens at the beginning, as in lm-eval"
                    )
        return found

    def describe(self) -> dict[str, Any]:
        """What is scored, as plain data for the run directory."""
        return {
            "by_size": [sorted(tasks) for tasks in self.objective.by_size],
            "searched_publicly": self.searched_publicly,
            "near_duplicates": len(self._alike),
            "tasks": [
                {
                    "task": task.name,
                    "metric": task.metric,
                    "higher_is_better": task.higher_is_better,
                    "weight": task.weight,
                    "metrics": self._metrics(task),
                    "means": [key for key in task.metrics if aggregation_of(task.task, key)[1] == "mean"],
                    "num_fewshot": self._num_fewshot[task.name],
                    **({"language": _described(task.language)} if task.language is not None else {}),
                    **({"tested": self._tested(task)} if "test" in self.splits else {}),
                    "items": {
                        split: sum(item.task == task.name for item in items) for split, items in self.splits.items()
                    },
                }
                for task in self._tasks.values()
            ],
        }

    def _tested(self, task: LoadedTask) -> dict[str, Any]:
        """Which documents of a task are test items, and whether a stock evaluation asks them."""
        own, source = source_of_task(task), source_of(task, "test")
        documents = [item.instances[0].doc_id for item in self.splits["test"] if item.task == task.name]
        is_stock = source == own
        is_whole = is_stock and len(documents) == len(list(task.task.eval_docs))
        return {
            "split": source,
            "is_stock": is_stock,
            "is_whole": is_whole,
            "documents": [] if is_whole or not is_stock else documents,
        }

    def _metrics(self, task: LoadedTask) -> dict[str, bool]:
        """Every metric of a task, `metric,filter`, and whether higher is better."""
        better = task.task.higher_is_better()
        return {key: bool(better.get(key.split(",")[0], True)) for key in task.metrics}


def build(
    config: BenchmarkConfig,
    model: BaseModel,
    *,
    max_length: int | None = None,
    where: str = "config",
    splits: Sequence[str] = SPLITS,
) -> Benchmark:
    """The tasks of a config for a base model: see `Benchmark.build`. Raises: BenchmarkError, CheckpointError."""
    return Benchmark.build(
        config, model.tokenizer(), model_config=model.config, max_length=max_length, where=where, splits=splits
    )


def _without(
    made: Mapping[str, list[Item]], alike: Sequence[NearDuplicate], rule: str, where: str
) -> dict[str, list[Item]]:
    """The items by role, by the rule without those that nearly repeat one of a more precious role.

    Raises: BenchmarkError if the rule is to refuse them, or nothing of a role is left.
    """
    if not alike or rule == "tell":
        return dict(made)
    if rule == "refuse":
        raise BenchmarkError(f"{where}: benchmark.near_duplicates: {'; '.join(sentences(alike))}")
    lost = {(each.role, each.item.task, each.item.id) for each in alike}
    kept = {role: [item for item in items if (role, item.task, item.id) not in lost] for role, items in made.items()}
    if empty := [role for role, items in kept.items() if not items]:
        raise BenchmarkError(
            f"{where}: benchmark.near_duplicates: drop leaves no {empty[0]} items; ask for other splits"
        )
    return kept


def _described(language: LanguageConfig) -> dict[str, Any]:
    """What is asked of a task's text, and who tells it."""
    return {**language.model_dump(), "identifier": identifier_of(language)}
