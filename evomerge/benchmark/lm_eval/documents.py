"""Choosing documents: which of a task's documents each split takes, no document in two of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from evomerge.benchmark.lm_eval.tasks import LoadedTask
from evomerge.errors import BenchmarkError
from evomerge.streams import stream


def choose_documents(task: LoadedTask, *, seed: int, drop: bool) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Each split's documents, and the indices of those that it takes.

    Args:
        task: the task.
        seed: draws the documents of splits that take a part.
        drop: whether a document with two roles keeps the more precious one (test, then validation) or is refused.

    Raises: BenchmarkError if there is no such data-set split, or not enough in it.
    """
    documents = {split: _documents(task, split) for split in task.splits}
    chosen = _choose(task, documents, seed)
    _without_overlap(task, documents, chosen, drop=drop)
    return documents, chosen


def source_of(task: LoadedTask, split: str) -> str:
    """Name of the data-set split that a role draws on; "" is the task's own evaluation split."""
    named = task.splits[split].split
    own = task.task.config.test_split or task.task.config.validation_split
    known = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
    if named is None:
        return str(own)
    return str(getattr(task.task.config, known[named], None) or named) if named in known else named


def _documents(task: LoadedTask, split: str) -> Any:
    """Documents of the data-set split that a role draws on. Raises: BenchmarkError if there is none."""
    source = source_of(task, split)
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


def _choose(task: LoadedTask, documents: Mapping[str, Any], seed: int) -> dict[str, list[int]]:
    """Indices of each role's documents. Roles that share a data-set split take disjoint parts, equal texts together."""
    chosen: dict[str, list[int]] = {}
    for source in dict.fromkeys(source_of(task, split) for split in task.splits):
        roles = [split for split in task.splits if source_of(task, split) == source]
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
                f"{source_of(task, role)!r}; ask for a larger part"
            )
    return chosen


def _without_overlap(
    task: LoadedTask, documents: Mapping[str, Any], chosen: dict[str, list[int]], *, drop: bool
) -> None:
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
