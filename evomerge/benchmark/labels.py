"""Labelled data for classifiers of text and images: inputs as the base's own tokenizer or image processor makes them.

Scored by accuracy and macro-F1. Which class the model is, is read from its config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.benchmark.base import SPLITS, BaseModel
from evomerge.benchmark.images import ImageEncoder, image_key
from evomerge.benchmark.one_task import OneRequest, OneTask, choose_rows, identity, roles_of
from evomerge.benchmark.rows import Rows, read_rows
from evomerge.config.benchmark import BenchmarkConfig, LabelsConfig
from evomerge.errors import BenchmarkError, listed
from evomerge.estimate.intervals import Mean, Sample, Totals
from evomerge.score.requests import ClassificationRequest, ClassificationResponse, Response
from evomerge.score.table import ItemAnswers, ItemTable, TaskScores

TASK = "labels"
ACCURACY, MACRO_F1 = "acc,none", "macro_f1,none"
_METRICS = {"accuracy": ACCURACY, "macro_f1": MACRO_F1}
_ARCHITECTURES = {"text": "ForSequenceClassification", "image": "ForImageClassification"}

Array = NDArray[np.float64]


class Labels(OneTask[ClassificationRequest]):
    """Items with a right label each."""

    def __init__(
        self,
        splits: Mapping[str, tuple[OneRequest[ClassificationRequest], ...]],
        labels: Sequence[str],
        *,
        metric: str,
        tie_break: bool,
        seed: int,
        cut: Mapping[str, int],
    ) -> None:
        super().__init__(
            TASK,
            splits,
            metric=metric,
            higher_is_better={ACCURACY: True, MACRO_F1: True},
            means=(ACCURACY,),
            tie_break=tie_break,
            seed=seed,
        )
        self.labels = tuple(labels)
        self._cut = dict(cut)

    def score(self, split: str, responses: Sequence[Response], *, items: Sequence[int] | None = None) -> ItemTable:
        """Whether each item's most probable label is the right one, and both labels' numbers.

        Raises: BenchmarkError if the model has another number of labels.
        """
        chosen = self.chosen(split, items)
        rows = [answer.log_probabilities for answer in responses if isinstance(answer, ClassificationResponse)]
        if len(rows) != len(chosen) or any(len(row) != len(self.labels) for row in rows):
            raise BenchmarkError(f"expected a number for each of {len(self.labels)} labels and {len(chosen)} items")
        made = [int(np.argmax(row)) for row in rows]
        right = [item.label for item in chosen]
        scores = TaskScores(
            items=tuple(item.id for item in chosen),
            values={
                ACCURACY: tuple(float(gold == guess) for gold, guess in zip(right, made, strict=True)),
                MACRO_F1: tuple([gold, guess] for gold, guess in zip(right, made, strict=True)),
            },
            # As precise as the table keeps it.
            tie_break=tuple(
                float(np.float32(np.exp(min(0.0, row[gold])))) for row, gold in zip(rows, right, strict=True)
            ),
            answers=ItemAnswers.of(rows, [[] for _ in rows], [_size(item.request) for item in chosen]),
        )
        return ItemTable(tasks={TASK: scores})

    def over(self, metric: str, values: Sequence[Any]) -> float:
        """Accuracy, or the mean F1 of the labels that are right or given anywhere."""
        if metric == ACCURACY:
            return float(np.mean(values))
        return float(_macro_f1(self._records(values).sum(axis=0)[None])[0])

    def samples(self, tables: Sequence[ItemTable], *, signed: bool = True) -> list[dict[str, Sample]]:
        """The chosen metric of several models on the same items, for intervals and comparisons."""
        columns = [table.tasks[TASK].values[self.metric] for table in tables]
        if self.metric == ACCURACY:
            return [{TASK: Mean(np.array(column, dtype=np.float64))} for column in columns]
        return [{TASK: Totals(self._records(column), _macro_f1)} for column in columns]

    @property
    def truncated(self) -> list[str]:
        """A sentence for each split with texts that lose their end to the context window."""
        return [
            f"{count} of {len(self.splits[split])} {split} items of {TASK} are longer than the model's context window "
            "and lose their end"
            for split, count in self._cut.items()
            if count
        ]

    def describe(self) -> dict[str, Any]:
        """What is scored, with the labels in the model's order."""
        return {**super().describe(), "labels": list(self.labels)}

    def _records(self, values: Sequence[Any]) -> Array:
        """For each item and label, twice whether it is right and given, and how often it is either."""
        right, made = np.array(values, dtype=np.int64).reshape(-1, 2).T
        one = np.eye(len(self.labels))
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
    settings, place = config.labels, f"{where}: benchmark.labels"
    assert settings is not None
    labels = _labels_of(settings, model, place)
    data = read_rows(settings.data, f"{place}.data")
    columns = [
        column for column in (settings.text, settings.pair, settings.image, settings.label) if column is not None
    ]
    _refuse_missing(data, columns, place)
    inputs = columns[:-1]
    chosen = choose_rows(
        data if settings.image is None else _identified(data, settings.image, place),
        roles_of(config.splits, splits),
        inputs,
        name=TASK,
        place=f"{where}: benchmark",
        seed=config.seed,
        drop=config.overlap == "drop",
    )
    numbers = _numbers(data, chosen, settings.label, labels, place)
    encoder = ImageEncoder(model, place) if settings.image is not None else _Texts(model, max_length)
    made: dict[str, tuple[OneRequest[ClassificationRequest], ...]] = {}
    cut = {}
    for role, places in chosen.items():
        items, encoder.cut = [], 0
        for source, index in places:
            row, label = data[source].rows[index], numbers[source, index]
            try:
                request = ClassificationRequest(encoder.encode([row[column] for column in inputs], data[source].folder))
            except (OSError, ValueError, TypeError) as error:
                raise BenchmarkError(f"{place}.data: row {index} of {source}: {error}") from error
            parts = {name: (list(array.shape), array.tobytes()) for name, array in request.inputs.items()}
            items.append(OneRequest(id=identity(TASK, parts, label), task=TASK, request=request, label=label))
        made[role], cut[role] = tuple(items), encoder.cut
    return Labels(made, labels, metric=_METRICS[settings.metric], tie_break=config.tie_break, seed=config.seed, cut=cut)


class _Texts:
    """Token ids of one text or two."""

    def __init__(self, model: BaseModel, max_length: int | None) -> None:
        self._tokenizer = model.tokenizer()
        limits = [max_length, self._tokenizer.model_max_length, model.config.get("max_position_embeddings")]
        self._limit = min(limit for limit in limits if isinstance(limit, int))
        self.cut = 0

    def encode(self, values: Sequence[Any], folder: Path) -> dict[str, NDArray[np.generic]]:
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"expected a text, found {values!r:.80}")
        whole = self._tokenizer(*values, verbose=False)
        if len(whole["input_ids"]) > self._limit:
            self.cut += 1
            whole = self._tokenizer(*values, truncation=True, max_length=self._limit)
        return {name: np.array(column, dtype=np.int64) for name, column in whole.items()}


def _identified(data: Mapping[str, Rows], column: str, place: str) -> dict[str, Rows]:
    """The same rows, each image by its content: one picture may have two names, and two pictures one."""
    found = {}
    for source, known in data.items():
        rows = []
        for index, row in enumerate(known.rows):
            try:
                rows.append({**row, column: image_key(row[column], known.folder)})
            except (OSError, ValueError) as error:
                raise BenchmarkError(f"{place}.data: row {index} of {source}: {error}") from error
        found[source] = Rows(rows, known.folder)
    return found


def _labels_of(settings: LabelsConfig, model: BaseModel, place: str) -> tuple[str, ...]:
    """Names of the model's labels in its order. Raises: BenchmarkError unless it gives each item one of them."""
    kind = "text" if settings.text is not None else "image"
    named = model.config.get("architectures") or ["no architecture"]
    if not str(named[0]).endswith(_ARCHITECTURES[kind]):
        raise BenchmarkError(
            f"{place}.{kind}: the base is a {named[0]}; labels of {kind}s need a model whose class ends in "
            f"{_ARCHITECTURES[kind]}"
        )
    if (problem := model.config.get("problem_type")) not in {None, "single_label_classification"}:
        raise BenchmarkError(f"{place}: the base is made for {problem}; labels need one right label for each item")
    names = model.config.get("id2label") or {str(number): f"LABEL_{number}" for number in range(2)}
    return tuple(str(names[number]) for number in sorted(names, key=int))


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
