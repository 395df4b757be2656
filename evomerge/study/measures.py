"""What objectives and constraints are of, measured: scores of tasks, lengths of answers, distances of weights.

Knows the benchmark and what the config names of it. Does not know what is searched for, nor which values are good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from evomerge.benchmark.base import Benchmark
from evomerge.config.objectives import MeasureConfig
from evomerge.config.search import SearchConfig
from evomerge.errors import ConfigError, listed, unknown
from evomerge.score.objective import LANGUAGE
from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest, Request
from evomerge.score.table import ItemTable

Aggregates = Mapping[str, Mapping[str, float]]


class Measures:
    """Every measure of a config over a benchmark.

    Args:
        search: the `search` section.
        benchmark: the items that candidates answer.
        where: the config's file, for messages.

    Raises: ConfigError for a task that the benchmark hasn't, or a length of answers that aren't text.
    """

    def __init__(self, search: SearchConfig, benchmark: Benchmark, *, where: str) -> None:
        self._benchmark = benchmark
        self._where = where
        self._measures: dict[str, MeasureConfig] = {}
        for section, given in (("objectives", search.objectives), ("constraints", search.constraints)):
            for name, measure in given.items():
                if measure.kind is not None:
                    self._check(measure, f"search.{section}.{name}.{measure.kind}")
                    self._measures[name] = measure

    def values(
        self,
        table: ItemTable,
        aggregates: Aggregates,
        lengths: Mapping[str, NDArray[np.float64]],
        distances: Mapping[str, float],
    ) -> dict[str, float]:
        """The value of each measure, by name of objective or constraint.

        Args:
            table: of one candidate on one split.
            aggregates: its metrics by task.
            lengths: tokens of its answers by task that generates text: see `answer_lengths`.
            distances: of its weights from those of models, by name.
        """
        found = {}
        for name, measure in self._measures.items():
            if measure.tasks is not None:
                found[name] = self._score(aggregates, self.weights(measure, table.sizes))
            elif measure.worst is not None:
                found[name] = min(self._language_scores(measure, aggregates, table.sizes).values())
            elif measure.length is not None:
                weights = self.weights(measure, table.sizes)
                found[name] = float(sum(weight * np.mean(lengths[task]) for task, weight in weights.items()))
            elif measure.distance is not None:
                found[name] = distances[measure.distance]
        return found

    def needs_lengths(self) -> bool:
        """Whether any measure is of the length of answers."""
        return any(measure.length is not None for measure in self._measures.values())

    def weights(self, measure: MeasureConfig, sizes: Mapping[str, int]) -> dict[str, float]:
        """Weight of each task that a measure is of, summing to 1.

        Args:
            measure: of tasks or of lengths.
            sizes: number of items by task.
        """
        if measure.length is not None:
            return self._shares(dict.fromkeys(measure.length or self._generating), sizes)
        return self._shares(measure.tasks or {}, sizes)

    def _shares(self, names: Mapping[str, float | None], sizes: Mapping[str, int]) -> dict[str, float]:
        """Weight of each task, summing to 1, of tasks or groups by name, with weights of their own or none."""
        own = self._benchmark.objective.weights_for(sizes)
        weights: dict[str, float] = {}
        for name, weight in names.items():
            tasks = self._tasks(name)
            total = sum(own[task] for task in tasks)
            for task in tasks:
                share = own[task] if weight is None else weight * own[task] / total
                weights[task] = weights.get(task, 0.0) + share
        total = sum(weights.values())
        return {task: weight / total for task, weight in weights.items()}

    def measure(self, name: str) -> MeasureConfig:
        """What an objective, or a constraint with a measure of its own, is of."""
        return self._measures[name]

    def _language_scores(
        self, measure: MeasureConfig, aggregates: Aggregates, sizes: Mapping[str, int]
    ) -> dict[str, float]:
        """The scores of which the lowest counts, by name."""
        return {
            name: self._score(aggregates, self._shares(dict.fromkeys(tasks), sizes))
            for name, tasks in (measure.worst or {}).items()
        }

    def _score(self, aggregates: Aggregates, weights: Mapping[str, float]) -> float:
        """The weighted mean of tasks' scores, less what is taken off for text in other languages."""
        objective = self._benchmark.objective
        total = 0.0
        for task, weight in weights.items():
            score = objective.sign(task) * float(aggregates[task][objective.metrics[task]])
            rule = objective.languages.get(task)
            if rule is not None and rule.penalty is not None:
                score -= rule.penalty * (1.0 - float(aggregates[task][LANGUAGE]))
            total += weight * score
        return total

    def _tasks(self, name: str) -> Sequence[str]:
        """The task of a name, or the tasks of a group."""
        return [name] if name in self._benchmark.objective.metrics else self._benchmark.groups[name]

    @cached_property
    def _generating(self) -> list[str]:
        """The tasks whose answers are text."""
        found: dict[str, None] = {}
        requests = self._benchmark.requests("search")
        for position, item in enumerate(self._benchmark.splits["search"]):
            if item.task not in found:
                places = self._benchmark.places("search", [position])
                if any(isinstance(requests[place], GenerationRequest) for place in places):
                    found[item.task] = None
        return list(found)

    def _check(self, measure: MeasureConfig, key: str) -> None:
        known = [*self._benchmark.objective.metrics, *self._benchmark.groups]
        named = [*(measure.tasks or ()), *(measure.length or ())]
        named += [task for tasks in (measure.worst or {}).values() for task in tasks]
        for name in named:
            if name not in known:
                raise ConfigError(f"{self._where}: {key}: {unknown('task of the benchmark', name, known)}")
        if measure.length is None:
            return
        generating = self._generating
        others = [task for name in measure.length for task in self._tasks(name) if task not in generating]
        if others or not generating:
            raise ConfigError(
                f"{self._where}: {key}: {listed(others) if others else 'the benchmark'} has no answers of generated "
                "text, whose length could be measured; name tasks that generate text"
            )


def prompt_tokens(benchmark: Benchmark, split: str) -> dict[str, NDArray[np.float64]]:
    """Tokens that a model is given for each item, by task whose answers are generated text, (items,) each.

    Args:
        benchmark: as the model is asked, with its tokenizer.
        split: whose items.
    """
    requests = iter(benchmark.requests(split))
    given: dict[str, list[int]] = {}
    for position, item in enumerate(benchmark.splits[split]):
        own = list(islice(requests, len(benchmark.places(split, [position]))))
        if any(isinstance(request, GenerationRequest) for request in own):
            given.setdefault(item.task, []).append(sum(map(_given_tokens, own)))
    return {task: np.array(tokens, dtype=np.float64) for task, tokens in given.items()}


def answer_lengths(prompts: Mapping[str, NDArray[np.float64]], table: ItemTable) -> dict[str, NDArray[np.float64]]:
    """Tokens of the text that was generated for each item, by task with such answers, (items,) each.

    Over all answers to an item, if it is asked several times.

    Args:
        prompts: see `prompt_tokens`.
        table: of all items of the split.
    """
    found = {}
    for task, given in prompts.items():
        answers = table.tasks[task].answers
        assert answers is not None
        found[task] = np.array(answers.tokens(), dtype=np.float64) - given
    return found


def _given_tokens(request: Request) -> int:
    """Tokens of a request that are the same whatever a model answers."""
    match request:
        case LogLikelihoodRequest():
            return len(request.context) + len(request.continuation)
        case GenerationRequest():
            return len(request.context)
        case _:
            return 0
