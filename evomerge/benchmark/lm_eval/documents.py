"""Documents of a task: those of each data-set split, and which of them each role takes."""

from __future__ import annotations

import json
from typing import Any

from evomerge.benchmark.clusters import clusters_of
from evomerge.benchmark.lm_eval.tasks import LoadedTask
from evomerge.benchmark.splits import choose_items, without_overlap
from evomerge.errors import BenchmarkError


def choose_documents(
    task: LoadedTask, *, seed: int, drop: bool, every: bool, cluster: str | None = None
) -> tuple[dict[str, Any], dict[str, list[int]], dict[str, list[str]]]:
    """Each split's documents, those that it takes by place, and by data-set split their clusters, if they have any.

    Args:
        task: the task.
        seed: draws the documents of splits that take a part.
        drop: whether a document with two roles keeps the more precious one (test, then validation) or is refused.
        every: whether splits whose fractions add up to one take every document.
        cluster: field by which documents belong together, which then have one role.

    Raises: BenchmarkError if there is no such data-set split, or not enough in it.
    """
    documents = {split: _documents(task, split) for split in task.splits}
    sources = {split: source_of(task, split) for split in task.splits}
    # Roles that share a data-set split have the same documents.
    by_source = {sources[split]: found for split, found in documents.items()}
    contents = {source: [_content(task.task, document) for document in found] for source, found in by_source.items()}
    clusters: dict[str, list[str]] = {}
    if cluster is not None:
        clusters = {
            source: [
                name if task.parallel is None else f"{task.parallel} {name}"
                for name in clusters_of(found, cluster, source, contents[source], task.place)
            ]
            for source, found in by_source.items()
        }
    chosen = choose_items(
        task.splits,
        sources,
        clusters or contents,
        name=task.name,
        place=task.place,
        seed=seed,
        drop=drop,
        every=every,
        alike=bool(clusters),
    )
    if clusters:
        chosen = without_overlap(task.splits, sources, contents, chosen, name=task.name, place=task.place, drop=drop)
    return documents, chosen, clusters


def source_of_task(task: LoadedTask) -> str | None:
    """Name of the data-set split that a stock evaluation asks."""
    split: str | None = task.task.config.test_split or task.task.config.validation_split
    return split


def source_of(task: LoadedTask, split: str) -> str:
    """Name of the data-set split that a role draws on; "" is the task's own evaluation split."""
    named = task.splits[split].split
    own = source_of_task(task)
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


def _content(task: Any, document: Any) -> str:
    """What a document asks and answers, without numbering, so that copies are known as such."""
    parts = [task.doc_to_text(document), task.doc_to_target(document)]
    if task.config.doc_to_choice is not None:
        parts.append(task.doc_to_choice(document))
    return json.dumps(parts, ensure_ascii=False, default=str)
