"""Scoring items: answers through a task's own filters and metrics, and item scores through its aggregation."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.registry import AGGREGATION_REGISTRY

from evomerge.benchmark.lm_eval.items import Item
from evomerge.benchmark.lm_eval.language import identifier_of, in_language
from evomerge.benchmark.lm_eval.references import right_choices
from evomerge.config.benchmark import LanguageConfig
from evomerge.errors import BenchmarkError
from evomerge.estimate.corpus_metrics import quietly, samples_of
from evomerge.estimate.intervals import Sample
from evomerge.score.objective import LANGUAGE
from evomerge.score.requests import GenerationResponse, LogLikelihoodResponse, Response
from evomerge.score.table import ItemAnswers, TaskScores


def put_answers(item: Item, answers: Iterator[Response]) -> int:
    """Give an item's lm-eval requests their answers, taken from `answers` in the order of its token requests.

    Returns: the number of tokens of the item's prompts and answers.
    """
    tokens = 0
    for instance, requests in zip(item.instances, item.requests, strict=True):
        responses = [next(answers) for _ in requests]
        instance.resps = _answers(instance, responses)
        instance.filtered_resps = {}
        for request, response in zip(requests, responses, strict=True):
            tokens += len(request.context)
            tokens += response.tokens if isinstance(response, GenerationResponse) else len(request.continuation)  # type: ignore[union-attr]
    return tokens


def score_task(
    task: Any, items: Sequence[Item], tokens: Sequence[int], *, language: LanguageConfig | None = None
) -> TaskScores:
    """Scores of one task's items, which have their answers, through its own filters and metrics.

    Args:
        task: lm-eval's Task.
        items: all its items of one split.
        tokens: of each item's prompts and answers.
        language: the one that generated text is to be in; None doesn't look.
    """
    task._instances = [instance for item in items for instance in item.instances]
    task.apply_filters()
    values: dict[str, list[Any]] = defaultdict(list)
    for filter_name in task._instances[0].filtered_resps:
        for item in items:
            found = task.process_results(
                item.document, [instance.filtered_resps[filter_name] for instance in item.instances]
            )
            for metric, value in found.items():
                values[f"{metric},{filter_name}"].append(_plain(value))
    if language is not None:
        # The text as it came, since filters leave a number or a letter of it.
        identifier = identifier_of(language)
        values[LANGUAGE] = [
            in_language([text for instance in item.instances for text in instance.resps], language.code, identifier)
            for item in items
        ]
    shares = [_right_share(task, item) for item in items]
    return TaskScores(
        items=tuple(item.id for item in items),
        values={key: tuple(column) for key, column in values.items()},
        tie_break=None if None in shares else tuple(share for share in shares if share is not None),
        answers=_kept(items, tokens),
    )


def _kept(items: Sequence[Item], tokens: Sequence[int]) -> ItemAnswers:
    """The items' answers as the table keeps them."""
    answers = [[answer for instance in item.instances for answer in instance.resps] for item in items]
    return ItemAnswers.of(
        [[_log_likelihood(answer) for answer in found if not isinstance(answer, str)] for found in answers],
        [[answer for answer in found if isinstance(answer, str)] for found in answers],
        tokens,
    )


def _log_likelihood(answer: Any) -> float:
    """Of an answer as lm-eval has it: a number, or a number and whether it is what greedy decoding would give."""
    return float(answer[0] if isinstance(answer, tuple) else answer)


def aggregate_task(task: Any, scores: TaskScores, *, chosen: str) -> dict[str, float]:
    """Each metric over a task's items, by the task's own aggregation functions.

    A metric that can't be aggregated is left out unless it is the chosen one.

    Raises: BenchmarkError if the chosen metric can't be aggregated over these items.
    """
    found = {}
    for key, values in scores.values.items():
        function, _ = aggregation_of(task, key)
        try:
            found[key] = quietly(function)([_thawed(value) for value in values])
        except (TypeError, ValueError, ArithmeticError, IndexError) as error:
            if key == chosen:
                raise BenchmarkError(
                    f"{task.config.task}: metric {key} can't be computed over {len(values)} items: {error}. "
                    "Choose another metric of the task"
                ) from error
    return found


def aggregation_of(task: Any, metric: str) -> tuple[Callable[[Sequence[Any]], float], str | None]:
    """The task's function over item values of `metric,filter`, and its name in lm-eval's registry if it is there.

    As in lm-eval, a metric without a function of its own is averaged.
    """
    function = task.aggregation().get(metric.split(",")[0], mean)
    return function, next((name for name, known in AGGREGATION_REGISTRY.items() if known is function), None)


def task_samples(task: Any, columns: Sequence[Sequence[Any]], metric: str, *, sign: float) -> list[Sample]:
    """One metric of several models on a task's items, for intervals and comparisons: see `samples_of`."""
    function, name = aggregation_of(task, metric)
    return samples_of([[_thawed(value) for value in column] for column in columns], function, name, sign=sign)


def remember_documents(task: Any, documents: Sequence[Any]) -> None:
    """Let a task read each of the documents once, whenever it asks for their text, target or choices."""
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        setattr(task, name, _Remembered(getattr(task, name), documents))


def _answers(instance: Instance, responses: list[Response]) -> list[Any]:
    """Responses in the form in which lm-eval's models return them, one per repeat."""
    if instance.request_type == "loglikelihood_rolling":
        repeats = instance.repeats or 1
        windows = len(responses) // repeats
        return [
            sum(
                item.log_probability
                for item in responses[repeat * windows : (repeat + 1) * windows]
                if isinstance(item, LogLikelihoodResponse)
            )
            for repeat in range(repeats)
        ]
    return [
        (item.log_probability, item.is_greedy) if isinstance(item, LogLikelihoodResponse) else item.text  # type: ignore[union-attr]
        for item in responses
    ]


def _right_share(task: Any, item: Item) -> float | None:
    """The right choice's share of the choices' probability; None unless the task is a plain multiple choice."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    right = right_choices(task, item.document)
    choices = task.doc_to_choice(item.document)
    logs = np.array([instance.resps[0][0] for instance in item.instances[: len(choices)]])
    if not all(0 <= index < len(logs) for index in right) or not np.isfinite(logs.max()):
        return 0.0
    shares = np.exp(logs - logs.max())
    # As precise as the table keeps it.
    return float(np.float32(shares[right].sum() / shares.sum()))


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


def _plain(value: Any) -> Any:
    """A metric's value of one item as JSON data."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def _thawed(value: Any) -> Any:
    """Lists back to the tuples that lm-eval's aggregation functions expect."""
    return tuple(_thawed(part) for part in value) if isinstance(value, list) else value
