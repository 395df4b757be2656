"""Labelled data for classifiers of text and images: inputs as the base's own tokenizer or image processor makes them.

Scored by accuracy and macro-F1. Which class the model is, is read from its config.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.benchmark.base import SPLITS, BaseModel, FixedItems
from evomerge.benchmark.heads import read_head
from evomerge.benchmark.images import ImageEncoder, by_content
from evomerge.benchmark.one_task import OneRequest, choose_rows, identity, roles_of
from evomerge.benchmark.rows import Rows, read_rows
from evomerge.benchmark.texts import TextEncoder
from evomerge.config.benchmark import BenchmarkConfig, LabelsConfig, LabelTaskConfig
from evomerge.errors import BenchmarkError, listed
from evomerge.estimate.intervals import Mean, Sample, Totals
from evomerge.score.objective import Objective
from evomerge.score.requests import (
    ClassificationRequest,
    ClassificationResponse,
    Head,
    LabelReference,
    Request,
    Response,
)
from evomerge.score.table import ItemAnswers, ItemTable, TaskScores

TASK = "labels"
ACCURACY, MACRO_F1 = "acc,none", "macro_f1,none"
_METRICS = {"accuracy": ACCURACY, "macro_f1": MACRO_F1}
_ARCHITECTURES = {"text": "ForSequenceClassification", "image": "ForImageClassification"}

Array = NDArray[np.float64]


class Labels(FixedItems[OneRequest[ClassificationRequest]]):
    """Items with a right label each, of one task or several.

    Args:
        splits: items by split, task after task.
        labels: names of each task's labels, in the order of the model's outputs.
        weights: of the tasks in the score; None: all count the same.
        metric: the chosen one.
        tie_break: whether the right label's probability decides between equal scores.
        seed: of the order of blocks.
        cut: by split and task, how many texts lose their end.
    """

    def __init__(
        self,
        splits: Mapping[str, tuple[OneRequest[ClassificationRequest], ...]],
        labels: Mapping[str, Sequence[str]],
        *,
        weights: Mapping[str, float] | None = None,
        metric: str,
        tie_break: bool,
        seed: int,
        cut: Mapping[str, Mapping[str, int]],
    ) -> None:
        super().__init__(splits, seed=seed)
        self.labels = {task: tuple(names) for task, names in labels.items()}
        self.metric = metric
        self._cut = cut
        self.objective = Objective(
            metrics=dict.fromkeys(labels, metric),
            weights=dict.fromkeys(labels, 1.0) if weights is None else dict(weights),
            higher_is_better=dict.fromkeys(labels, True),
            tie_breaks=tie_break,
            means=frozenset(labels if metric == ACCURACY else ()),
        )

    def requests_of(self, item: OneRequest[ClassificationRequest]) -> tuple[Request, ...]:
        """The item's request."""
        return (item.request,)

    def references(self, split: str) -> dict[str, tuple[LabelReference, ...]]:
        """The right label of each item, by task."""
        return {
            task: tuple(LabelReference(item.request, item.label) for item in self.splits[split] if item.task == task)
            for task in self.labels
        }

    def score(self, split: str, responses: Sequence[Response], *, items: Sequence[int] | None = None) -> ItemTable:
        """Whether each item's most probable label is the right one, and both labels' numbers.

        Raises: BenchmarkError if the model has another number of labels.
        """
        every = self.splits[split]
        chosen = every if items is None else [every[place] for place in sorted(items)]
        rows = [answer.log_probabilities for answer in responses if isinstance(answer, ClassificationResponse)]
        if len(rows) != len(chosen):
            raise BenchmarkError(f"expected answers to {len(chosen)} items, found {len(rows)}")
        found: dict[str, list[tuple[OneRequest[ClassificationRequest], Sequence[float]]]] = {}
        for item, row in zip(chosen, rows, strict=True):
            if len(row) != len(self.labels[item.task]):
                raise BenchmarkError(
                    f"expected a number for each of {len(self.labels[item.task])} labels of {item.task}, found "
                    f"{len(row)}"
                )
            found.setdefault(item.task, []).append((item, row))
        return ItemTable(tasks={task: _scores(pairs) for task, pairs in found.items()})

    def aggregate(self, table: ItemTable) -> dict[str, dict[str, float]]:
        """Both metrics over each task's items."""
        return {
            task: {metric: self._over(task, metric, scores.values[metric]) for metric in (ACCURACY, MACRO_F1)}
            for task, scores in table.tasks.items()
        }

    def _over(self, task: str, metric: str, values: Sequence[Any]) -> float:
        """Accuracy, or the mean F1 of the labels that are right or given anywhere."""
        if metric == ACCURACY:
            return float(np.mean(values))
        return float(_macro_f1(self._records(task, values).sum(axis=0)[None])[0])

    def samples(self, tables: Sequence[ItemTable], *, signed: bool = True) -> list[dict[str, Sample]]:
        """The chosen metric of several models on the same items, for intervals and comparisons."""
        return [
            {
                task: Mean(np.array(scores.values[ACCURACY], dtype=np.float64))
                if self.metric == ACCURACY
                else Totals(self._records(task, scores.values[MACRO_F1]), _macro_f1)
                for task, scores in table.tasks.items()
            }
            for table in tables
        ]

    @property
    def truncated(self) -> list[str]:
        """A sentence for each split and task with texts that lose their end to the context window."""
        sizes = {split: Counter(item.task for item in items) for split, items in self.splits.items()}
        return [
            f"{count} of {sizes[split][task]} {split} items of {task} are longer than the model's context window "
            "and lose their end"
            for split, counts in self._cut.items()
            for task, count in counts.items()
            if count
        ]

    def describe(self) -> dict[str, Any]:
        """What is scored, with the labels in the model's order."""
        tasks = [
            {
                "task": task,
                "metric": self.metric,
                "higher_is_better": True,
                "weight": self.objective.weights[task],
                "metrics": {ACCURACY: True, MACRO_F1: True},
                "means": [ACCURACY],
                "items": {split: sum(item.task == task for item in items) for split, items in self.splits.items()},
            }
            for task in self.labels
        ]
        labels = {task: list(names) for task, names in self.labels.items()}
        return {"by_size": [], "tasks": tasks, "labels": labels.get(TASK, labels) if len(labels) == 1 else labels}

    def _records(self, task: str, values: Sequence[Any]) -> Array:
        """For each item and label, twice whether it is right and given, and how often it is either."""
        right, made = np.array(values, dtype=np.int64).reshape(-1, 2).T
        one = np.eye(len(self.labels[task]))
        return np.concatenate([2 * one[right] * one[made], one[right] + one[made]], axis=1)


def build(
    config: BenchmarkConfig,
    model: BaseModel,
    *,
    max_length: int | None = None,
    where: str = "config",
    splits: Sequence[str] = SPLITS,
) -> Labels:
    """Read the data, choose the items of each split and make the model's inputs: see `Build`.

    Pixel values are made again when they are asked for; of an image only its file's bytes stay in memory.

    Raises: BenchmarkError; CheckpointError if the base has no tokenizer.
    """
    settings = config.labels
    assert settings is not None
    place = f"{where}: benchmark.labels"
    _refuse_other_kinds(settings, model, place)
    encoder = ImageEncoder(model, place) if settings.image is not None else TextEncoder(model, max_length)
    made: dict[str, list[OneRequest[ClassificationRequest]]] = {split: [] for split in splits}
    cut: dict[str, dict[str, int]] = {split: {} for split in splits}
    labels, weights = {}, {}
    for name, task in settings.named_tasks.items():
        here = place if settings.data is not None else f"{place}.tasks.{name}"
        head, names = None, labels_of(model.config, "the base", here)
        if task.head is not None:
            head, its_config = read_head(task.head, name, f"{here}.head")
            names = labels_of(its_config, f"the head of {task.head}", here)
        labels[name], weights[name] = names, task.weight
        found = _items(config, settings, name, task, encoder, head, names, here, splits)
        for split, (items, lost) in found.items():
            made[split] += items
            cut[split][name] = lost
    return Labels(
        {split: tuple(items) for split, items in made.items()},
        labels,
        weights=weights,
        metric=_METRICS[settings.metric],
        tie_break=config.tie_break,
        seed=config.seed,
        cut=cut,
    )


def _items(
    config: BenchmarkConfig,
    settings: LabelsConfig,
    name: str,
    task: LabelTaskConfig,
    encoder: ImageEncoder | TextEncoder,
    head: Head | None,
    labels: Sequence[str],
    place: str,
    splits: Sequence[str],
) -> dict[str, tuple[list[OneRequest[ClassificationRequest]], int]]:
    """One task's items of each split, and how many of them lose their end."""
    data = read_rows(task.data, f"{place}.data")
    columns = [
        column for column in (settings.text, settings.pair, settings.image, settings.label) if column is not None
    ]
    _refuse_missing(data, columns, place)
    inputs = columns[:-1]
    chosen = choose_rows(
        data if settings.image is None else by_content(data, settings.image, place),
        roles_of(config.splits, splits),
        inputs,
        name=name,
        place=place.partition(".labels")[0],
        seed=config.seed,
        drop=config.overlap == "drop",
        every=config.every_item,
    )
    numbers = _numbers(data, chosen, settings.label, labels, place)
    # Part of what decides a score, beside the model.
    own = [] if head is None else [identity({key: array.tobytes() for key, array in head.tensors.items()})]
    found = {}
    for role, places in chosen.items():
        items, encoder.cut = [], 0
        for source, index in places:
            row, label = data[source].rows[index], numbers[source, index]
            try:
                encoded = encoder.encode([row[column] for column in inputs], data[source].folder)
            except (OSError, ValueError, TypeError) as error:
                raise BenchmarkError(f"{place}.data: row {index} of {source}: {error}") from error
            request = ClassificationRequest(encoded, head)
            parts = {key: (list(array.shape), array.tobytes()) for key, array in request.inputs.items()}
            items.append(OneRequest(id=identity(name, parts, label, *own), task=name, request=request, label=label))
        found[role] = items, encoder.cut
    return found


def _refuse_other_kinds(settings: LabelsConfig, model: BaseModel, place: str) -> None:
    """Find early that the base can't give each item one label. Raises: BenchmarkError."""
    kind = "text" if settings.text is not None else "image"
    named = model.config.get("architectures") or ["no architecture"]
    if not str(named[0]).endswith(_ARCHITECTURES[kind]):
        raise BenchmarkError(
            f"{place}.{kind}: the base is a {named[0]}; labels of {kind}s need a model whose class ends in "
            f"{_ARCHITECTURES[kind]}"
        )
    if (problem := model.config.get("problem_type")) not in {None, "single_label_classification"}:
        raise BenchmarkError(f"{place}: the base is made for {problem}; labels need one right label for each item")


def labels_of(config: Mapping[str, Any], model: str, place: str) -> tuple[str, ...]:
    """Names of a model's labels in the order of its outputs. Raises: BenchmarkError if they aren't numbered."""
    names = config.get("id2label") or {str(number): f"LABEL_{number}" for number in range(2)}
    try:
        return tuple(str(names[number]) for number in sorted(names, key=int))
    except (TypeError, ValueError) as error:
        raise BenchmarkError(f"{place}: {model}: id2label in config.json doesn't number its labels") from error


def _refuse_missing(data: Mapping[str, Rows], columns: Sequence[str], place: str) -> None:
    for source, found in data.items():
        for index, row in enumerate(found.rows):
            if lacking := [column for column in columns if row.get(column) is None]:
                raise BenchmarkError(
                    f"{place}.data: row {index} of {source} has no {listed(lacking)}; it has {', '.join(map(str, row))}"
                )


def _numbers(
    data: Mapping[str, Rows],
    chosen: Mapping[str, Sequence[tuple[str, int]]],
    column: str,
    labels: Sequence[str],
    place: str,
) -> dict[tuple[str, int], int]:
    """The number of each chosen row's label. Raises: BenchmarkError naming those that the model doesn't have."""
    found, strange = {}, {}
    for source, index in dict.fromkeys(place for places in chosen.values() for place in places):
        label = str(data[source].rows[index][column])
        if label in labels:
            found[source, index] = labels.index(label)
        elif label.isdecimal() and int(label) < len(labels):
            found[source, index] = int(label)
        else:
            strange[label] = True
    if strange:
        raise BenchmarkError(
            f"{place}.label: the base has no label {listed([repr(label) for label in strange])}; its labels are "
            f"{', '.join(map(repr, labels))} (id2label in its config.json)"
        )
    return found


def _scores(pairs: Sequence[tuple[OneRequest[ClassificationRequest], Sequence[float]]]) -> TaskScores:
    """Scores of one task's items, from their right labels and their labels' log-probabilities."""
    items, rows = [item for item, _ in pairs], [row for _, row in pairs]
    right, made = [item.label for item in items], [int(np.argmax(row)) for row in rows]
    return TaskScores(
        items=tuple(item.id for item in items),
        values={
            ACCURACY: tuple(float(gold == guess) for gold, guess in zip(right, made, strict=True)),
            MACRO_F1: tuple([gold, guess] for gold, guess in zip(right, made, strict=True)),
        },
        # As precise as the table keeps it.
        tie_break=tuple(float(np.float32(np.exp(min(0.0, row[gold])))) for row, gold in zip(rows, right, strict=True)),
        answers=ItemAnswers.of(rows, [[] for _ in rows], [_size(item.request) for item in items]),
    )


def _macro_f1(sums: Array) -> Array:
    """Mean F1 of the labels that occur, from sums of `_records`, shape (r, 2 · labels)."""
    twice, either = np.split(sums, 2, axis=1)
    occurs = either > 0
    scores = np.divide(twice, either, out=np.zeros_like(twice), where=occurs)
    found: Array = scores.sum(axis=1) / np.maximum(1, occurs.sum(axis=1))
    return found


def _size(request: ClassificationRequest) -> int:
    """Tokens of a text; an image counts as one."""
    ids = request.inputs.get("input_ids")
    return 1 if ids is None else len(ids)
