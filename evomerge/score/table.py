"""The item table: a candidate's score on every item that it saw, and what it answered, as plain data.

Everything later (fitness, weights, paired tests, intervals) is arithmetic on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evomerge.score.columns import decode, encode, from_text, pack, to_text, unpack


@dataclass(frozen=True, slots=True)
class ItemAnswers:
    """What a model answered to a task's items, packed: log-likelihoods in float32, texts compressed."""

    packed: bytes

    @classmethod
    def of(
        cls, log_likelihoods: Sequence[Sequence[float]], texts: Sequence[Sequence[str]], tokens: Sequence[int]
    ) -> ItemAnswers:
        """Pack the answers, one entry per item in each argument.

        Args:
            log_likelihoods: natural logarithms, one per request (a choice, or a repeat of one); empty where text
                was asked for.
            texts: generated text, one per repeat, before the task's filters; empty where none was asked for.
            tokens: of prompts and answers, over all of an item's requests.
        """
        flat = np.array([value for values in log_likelihoods for value in values], dtype=np.float32)
        return cls(
            pack(
                {
                    "counts": encode([len(values) for values in log_likelihoods]),
                    "log_likelihoods": encode(flat.tolist()),
                    "texts": [list(found) for found in texts] if any(texts) else None,
                    "tokens": encode(tokens),
                }
            )
        )

    def log_likelihoods(self) -> list[list[float]]:
        """Natural logarithms, one per request of each item."""
        data = unpack(self.packed)
        flat = iter(decode(data["log_likelihoods"]))
        return [[next(flat) for _ in range(int(count))] for count in decode(data["counts"])]

    def texts(self) -> list[list[str]] | None:
        """Generated text, one per repeat of each item; None where none was asked for."""
        texts: list[list[str]] | None = unpack(self.packed)["texts"]
        return texts

    def tokens(self) -> list[int]:
        """Tokens of prompts and answers, over all requests of each item."""
        return [int(count) for count in decode(unpack(self.packed)["tokens"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """One task's items with their scores.

    `items` are identities (a hash of document and prompt), in benchmark order. `values` maps each
    metric, written `metric,filter` as lm-eval does, to one value per item. `tie_break` is a number in
    [0, 1] per item where the task gives one (the right answer's share of probability), else None. `covariates` are what
    a search's estimator knows of the items besides (the probability of the reference answer), where it asks for that.
    `answers` is None in runs of earlier releases, which didn't keep them.
    """

    items: tuple[str, ...]
    values: Mapping[str, tuple[Any, ...]]
    tie_break: tuple[float, ...] | None = None
    covariates: tuple[float, ...] | None = None
    answers: ItemAnswers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTable:
    """Scores of one candidate on one split, by task."""

    tasks: Mapping[str, TaskScores]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of items by task."""
        return {name: len(task.items) for name, task in self.tasks.items()}

    @property
    def item_lists(self) -> dict[str, tuple[str, ...]]:
        """The tasks' items by the key under which `to_data` refers to them."""
        return {items_key(task.items): task.items for task in self.tasks.values()}

    def with_items(self, items: Mapping[str, Sequence[str]]) -> ItemTable:
        """The same scores under other identities of the items, by task. Raises: ValueError for another number."""
        made = {}
        for name, task in self.tasks.items():
            if len(items[name]) != len(task.items):
                raise ValueError(f"{name}: {len(task.items)} items are scored, and {len(items[name])} are named")
            made[name] = replace(task, items=tuple(items[name]))
        return ItemTable(tasks=made)

    @property
    def covariates(self) -> dict[str, tuple[float, ...]]:
        """Covariates of each item, by task, of tasks that have them."""
        return {name: task.covariates for name, task in self.tasks.items() if task.covariates is not None}

    def with_covariates(self, covariates: Mapping[str, Sequence[float]]) -> ItemTable:
        """The same scores with covariates of each item, by task."""
        return ItemTable(
            tasks={name: replace(task, covariates=tuple(covariates[name])) for name, task in self.tasks.items()}
        )

    def to_data(self) -> dict[str, Any]:
        """As compressed text that JSON can hold; items are referred to by the keys of `item_lists`."""
        scores = {
            name: {
                "items": items_key(task.items),
                "values": {metric: encode(values) for metric, values in task.values.items()},
                **({"tie_break": encode(task.tie_break)} if task.tie_break is not None else {}),
                **({"covariates": encode(task.covariates)} if task.covariates is not None else {}),
            }
            for name, task in self.tasks.items()
        }
        answers = {name: to_text(task.answers.packed) for name, task in self.tasks.items() if task.answers is not None}
        return {"scores": to_text(pack(scores)), **({"answers": answers} if answers else {})}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], item_lists: Mapping[str, tuple[str, ...]]) -> ItemTable:
        """The inverse of `to_data`. Raises: KeyError or ValueError if the data or a list of items is damaged."""
        answers = data.get("answers", {})
        return cls(
            tasks={
                name: TaskScores(
                    items=item_lists[task["items"]],
                    values={metric: decode(values) for metric, values in task["values"].items()},
                    tie_break=decode(task["tie_break"]) if "tie_break" in task else None,
                    covariates=decode(task["covariates"]) if "covariates" in task else None,
                    answers=ItemAnswers(from_text(answers[name])) if name in answers else None,
                )
                for name, task in unpack(from_text(data["scores"])).items()
            }
        )

    @classmethod
    def from_first_format(cls, data: Mapping[str, Any]) -> ItemTable:
        """A table as runs of format 1 hold it: plain lists, items written out, no answers."""
        return cls(
            tasks={
                name: TaskScores(
                    items=tuple(task["items"]),
                    values={metric: tuple(values) for metric, values in task["values"].items()},
                    tie_break=tuple(task["tie_break"]) if "tie_break" in task else None,
                )
                for name, task in data.items()
            }
        )


def joined(tables: Sequence[ItemTable], places: Sequence[Mapping[str, Sequence[int]]]) -> ItemTable:
    """One table of several with different items of the same tasks, without answers and covariates.

    Args:
        tables: of the same metrics.
        places: for each table and task, the positions of its items, by which all of them are put in order.
    """
    made = {}
    for task in dict.fromkeys(name for table in tables for name in table.tasks):
        both = zip(tables, places, strict=True)
        parts = [(table.tasks[task], own[task]) for table, own in both if task in table.tasks]
        order = np.argsort([place for _, own in parts for place in own], kind="stable").tolist()

        def put(columns: Iterable[Sequence[Any]], order: Sequence[int] = order) -> tuple[Any, ...]:
            whole = [value for column in columns for value in column]
            return tuple(whole[place] for place in order)

        breaks = [scores.tie_break for scores, _ in parts]
        made[task] = TaskScores(
            items=put(scores.items for scores, _ in parts),
            values={metric: put(scores.values[metric] for scores, _ in parts) for metric in parts[0][0].values},
            tie_break=None if None in breaks else put(found for found in breaks if found is not None),
        )
    return ItemTable(tasks=made)


def items_key(items: tuple[str, ...]) -> str:
    """The key of a list of items: a hash of it."""
    return hashlib.sha256("\n".join(items).encode()).hexdigest()[:16]
