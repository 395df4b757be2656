"""A function of the user's as a benchmark: it gives the live model a score on each item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.benchmark.base import SPLITS, BaseModel
from evomerge.benchmark.one_task import OneRequest, OneTask, choose_rows, identity, roles_of
from evomerge.benchmark.rows import Rows, read_rows
from evomerge.benchmark.user_code import load_function, load_module
from evomerge.config.benchmark import BenchmarkConfig, FunctionConfig
from evomerge.errors import BenchmarkError
from evomerge.estimate.intervals import Mean, Sample
from evomerge.files.places import local
from evomerge.score.requests import FunctionRequest, FunctionResponse, Response
from evomerge.score.table import ItemTable, TaskScores

SCORE = "score,none"


class FunctionScores(OneTask[FunctionRequest]):
    """Items that a function scores."""

    def __init__(
        self,
        call: str,
        folder: str,
        splits: Mapping[str, tuple[OneRequest[FunctionRequest], ...]],
        *,
        higher_is_better: bool,
        seed: int,
    ) -> None:
        super().__init__(
            call.partition(":")[2],
            splits,
            metric=SCORE,
            higher_is_better={SCORE: higher_is_better},
            means=(SCORE,),
            tie_break=False,
            seed=seed,
        )
        self._call = call
        self._folder = folder

    def score(self, split: str, responses: Sequence[Response], *, items: Sequence[int] | None = None) -> ItemTable:
        """The scores as the function gave them. Raises: BenchmarkError unless there is one for each item."""
        chosen = self.chosen(split, items)
        scores = [answer.score for answer in responses if isinstance(answer, FunctionResponse)]
        if len(scores) != len(chosen):
            raise BenchmarkError(f"{self._call}: {len(scores)} scores for {len(chosen)} items")
        made = TaskScores(items=tuple(item.id for item in chosen), values={SCORE: tuple(scores)})
        return ItemTable(tasks={self.task: made})

    def over(self, metric: str, values: Sequence[Any]) -> float:
        """The mean."""
        return float(np.mean(values))

    def samples(self, tables: Sequence[ItemTable], *, signed: bool = True) -> list[dict[str, Sample]]:
        """The scores of several models on the same items, for intervals and comparisons."""
        sign = self.objective.sign(self.task) if signed else 1.0
        columns = [table.tasks[self.task].values[SCORE] for table in tables]
        return [{self.task: Mean(sign * np.array(column, dtype=np.float64))} for column in columns]

    @property
    def notes(self) -> list[str]:
        """That code is run."""
        return [f"{self._call} of {self._folder} is your own code; it is run as it is, here and in every worker"]

    def describe(self) -> dict[str, Any]:
        """What is scored, with the function."""
        return {**super().describe(), "function": self._call}


def build(
    config: BenchmarkConfig,
    model: BaseModel,
    *,
    max_length: int | None = None,
    where: str = "config",
    splits: Sequence[str] = SPLITS,
) -> FunctionScores:
    """Find the function and the items, and choose those of each split: see `Build`. Raises: BenchmarkError."""
    settings, place = config.function, f"{where}: benchmark.function"
    assert settings is not None
    folder = str(local(settings.folder or ".").absolute())
    try:
        load_function(settings.call, folder)
        data = _items(settings, folder, place)
    except BenchmarkError as error:
        raise BenchmarkError(f"{place}: {error}" if not str(error).startswith(where) else str(error)) from error
    name = settings.call.partition(":")[2]
    chosen = choose_rows(
        data,
        roles_of(config.splits, splits),
        None,
        name=name,
        place=f"{where}: benchmark",
        seed=config.seed,
        drop=config.overlap == "drop",
        every=config.every_item,
    )
    code = _fingerprint(settings.call, folder)
    made = {
        role: tuple(
            OneRequest(
                id=identity(settings.call, code, row := data[source].rows[index]),
                task=name,
                request=FunctionRequest(settings.call, folder, row),
            )
            for source, index in places
        )
        for role, places in chosen.items()
    }
    return FunctionScores(settings.call, folder, made, higher_is_better=settings.higher_is_better, seed=config.seed)


def _items(settings: FunctionConfig, folder: str, place: str) -> dict[str, Rows]:
    """Items by split: rows of files, or what the module's `items()` returns."""
    if isinstance(settings.data, int):
        return {"all": Rows(range(settings.data), Path(folder))}
    if settings.data is not None:
        return read_rows(settings.data, f"{place}.data")
    function = getattr(load_module(settings.call, folder), "items", None)
    if not callable(function):
        raise BenchmarkError(f"{settings.call}: no items; give data, or a function items() in the same module")
    try:
        items = list(function())
        json.dumps(items)
    except Exception as error:
        raise BenchmarkError(
            f"{settings.call}: items() must return a list of plain JSON data ({type(error).__name__}: {error})"
        ) from error
    return {"all": Rows(items, Path(folder))}


def _fingerprint(call: str, folder: str) -> str:
    """A hash of the module's source, so that a run isn't continued with other code."""
    file = load_module(call, folder).__file__
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
