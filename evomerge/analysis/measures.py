"""What a model's answers say of it, as a few numbers: loss and accuracy on texts, labelled data or tasks.

Knows requests, responses and benchmarks. Does not know how a model is made or where it runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from evomerge.benchmark import Benchmark
from evomerge.benchmark.labels import Labels
from evomerge.errors import BenchmarkError
from evomerge.files.outside import decode
from evomerge.models.checkpoint import Checkpoint
from evomerge.score.requests import LogLikelihoodRequest, LogLikelihoodResponse, Request, Response
from evomerge.score.table import TaskScores

CHARACTERS = 20_000
"""Of each text, when nothing is said."""
WINDOW = 1024
"""Tokens that a model reads at a time, when nothing is said and its context isn't shorter."""
LOSS = "loss"

_LEAST = float(np.finfo(np.float32).smallest_subnormal)
"""The least probability that an item table can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number that is taken of a model."""

    unit: str
    higher_is_better: bool = False


class Measured(Protocol):
    """What models are measured on: named sets of requests, and numbers from their answers."""

    @property
    def requests(self) -> Mapping[str, tuple[Request, ...]]:
        """What is asked of each set, by the set's name."""

    @property
    def measures(self) -> Mapping[str, Measure]:
        """The numbers that are taken, the most telling first."""

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know of them, a sentence each."""

    def take(self, name: str, responses: Sequence[Response]) -> dict[str, float]:
        """The numbers of one set by measure, from its answers in the order of its requests."""


class Texts:
    """The loss on plain text: natural logarithms per token, and bits per byte of UTF-8.

    As in lm-eval, a text begins after the token that begins texts (else that which ends them), and is read in windows
    that follow each other, each token predicted from those before it in its window and the last one before that.

    Args:
        files: by name.
        model: whose tokenizer and context they are for.
        characters: how much of each is read.
        window: tokens that the model reads at a time; None: its context, at most 1,024.

    Raises: BenchmarkError for a text that can't be read, or leaves nothing to predict; CheckpointError without a
        tokenizer.
    """

    def __init__(
        self, files: Mapping[str, Path], model: Checkpoint, *, characters: int = CHARACTERS, window: int | None = None
    ) -> None:
        tokenizer = model.tokenizer()
        size = min(WINDOW, model.positions or WINDOW) if window is None else window
        if size < 2:
            raise BenchmarkError(f"a window of {size} tokens leaves nothing to predict from; give 2 or more")
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.requests: dict[str, tuple[Request, ...]] = {}
        self.notes: list[str] = []
        self._tokens: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        for name, path in files.items():
            whole = _read(path)
            text = whole[:characters]
            if len(text) < len(whole):
                self.notes.append(f"{path}: the first {characters:,} of its {len(whole):,} characters are read")
            tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if first is not None:
                tokens = [first, *tokens]
            if len(tokens) < 2:
                raise BenchmarkError(f"{path}: too short; a text needs two tokens at least, one to predict the other")
            self.requests[name] = tuple(
                LogLikelihoodRequest((tokens[start],), tuple(tokens[start + 1 : start + 1 + size]))
                for start in range(0, len(tokens) - 1, size)
            )
            self._tokens[name] = len(tokens) - 1
            self._bytes[name] = len(text.encode("utf-8", "surrogatepass"))

    @property
    def measures(self) -> dict[str, Measure]:
        """Loss per token, and what doesn't depend on the tokenizer."""
        return {LOSS: Measure(unit="nats per token"), "bits per byte": Measure(unit="bits per byte")}

    def take(self, name: str, responses: Sequence[Response]) -> dict[str, float]:
        """Both numbers of one text."""
        total = -math.fsum(answer.log_probability for answer in responses if isinstance(answer, LogLikelihoodResponse))
        return {LOSS: total / self._tokens[name], "bits per byte": total / math.log(2) / self._bytes[name]}


class Tasks:
    """The scores of a benchmark's tasks, and their cross-entropy where an answer's probability is known.

    Of several tasks the weighted means come first, by the benchmark's own weights.

    Args:
        benchmark: what is asked.
        splits: which of its items.

    Raises: BenchmarkError for labelled data of one class only, on which any constant answer is right.
    """

    def __init__(self, benchmark: Benchmark, splits: Sequence[str]) -> None:
        self._benchmark = benchmark
        self.requests = {split: benchmark.requests(split) for split in splits}
        self.notes = benchmark.truncated
        for split in splits:
            if isinstance(benchmark, Labels):
                _refuse_one_class(benchmark, split)
        objective = benchmark.objective
        self.measures: dict[str, Measure] = {}
        several = len(objective.metrics) > 1
        if several:
            self.measures = {"score": Measure(unit="weighted mean", higher_is_better=True), LOSS: _CROSS_ENTROPY}
        for task, metric in objective.metrics.items():
            name = metric.removesuffix(",none")
            own = Measure(unit=name, higher_is_better=objective.higher_is_better[task])
            self.measures |= {_named(task, name, several): own, _named(task, LOSS, several): _CROSS_ENTROPY}
        if not several:
            # The loss tells more than the score, which jumps.
            self.measures = dict(reversed(self.measures.items()))

    def take(self, name: str, responses: Sequence[Response]) -> dict[str, float]:
        """Every task's numbers on one split; a loss is missing where no answer has a probability."""
        table = self._benchmark.score(name, responses)
        aggregates, objective = self._benchmark.aggregate(table), self._benchmark.objective
        several = len(objective.metrics) > 1
        found: dict[str, float] = {}
        losses = {task: loss for task, scores in table.tasks.items() if (loss := _cross_entropy(scores)) is not None}
        if several:
            found["score"] = objective.score(aggregates, table.sizes)
            if len(losses) == len(table.tasks):
                weights = objective.weights_for(table.sizes)
                found[LOSS] = math.fsum(weights[task] * loss for task, loss in losses.items())
        for task, metric in objective.metrics.items():
            found[_named(task, metric.removesuffix(",none"), several)] = float(aggregates[task][metric])
            if task in losses:
                found[_named(task, LOSS, several)] = losses[task]
        return found


_CROSS_ENTROPY = Measure(unit="nats per item")


def _named(task: str, measure: str, several: bool) -> str:
    return f"{task}: {measure}" if several else measure


def _cross_entropy(scores: TaskScores) -> float | None:
    """Mean of −log of the probability given to the right answer, among the answers that there are to choose from."""
    if scores.tie_break is None:
        return None
    return float(-np.log(np.maximum(np.array(scores.tie_break, dtype=np.float64), _LEAST)).mean())


def _refuse_one_class(benchmark: Labels, split: str) -> None:
    for task, labels in benchmark.labels.items():
        items = [item for item in benchmark.splits[split] if item.task == task]
        seen = {item.label for item in items}
        if len(seen) == 1:
            raise BenchmarkError(
                f"{task}: all {len(items)} {split} items have the label {labels[seen.pop()]!r}, so that a model which "
                "always says so is right; give items of two labels at least"
            )


def _read(path: Path) -> str:
    """A text. Raises: BenchmarkError if it can't be read, or is empty."""
    try:
        text = decode(path.read_bytes(), str(path), BenchmarkError)
    except OSError as error:
        raise BenchmarkError(f"{path}: can't be read: {error.strerror or error}") from error
    if not text.strip():
        raise BenchmarkError(f"{path}: is empty; give a text of the kind that the models are for")
    return text
