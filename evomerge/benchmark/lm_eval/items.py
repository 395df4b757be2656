"""Building items: a document's prompt as a stock evaluation makes it, its requests as tokens, its identity."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance

from evomerge.benchmark.lm_eval.documents import choose_documents, source_of
from evomerge.benchmark.lm_eval.prompts import Encoder
from evomerge.benchmark.lm_eval.tasks import LoadedTask
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.errors import BenchmarkError
from evomerge.score.requests import TokenRequest

# lm-eval's default seed for choosing few-shot examples.
_FEWSHOT_SEED = 1234


@dataclass(frozen=True, slots=True)
class Item:
    """One document of one task: its identity, its place in the task's data and the requests that it makes."""

    id: str
    task: str
    document: Any
    instances: tuple[Instance, ...]
    requests: tuple[tuple[TokenRequest, ...], ...]
    """Token requests per instance: one, or several windows of a rolling log-likelihood; repeats included."""
    cut: int = 0
    """Tokens that the longest prompt lost at its beginning, since the context window is shorter."""
    cluster: str = ""
    """Name of what it belongs to with others, of other tasks, too; empty: to nothing."""


def build_items(task: LoadedTask, config: BenchmarkConfig, encoder: Encoder) -> dict[str, list[Item]]:
    """The task's items by split, each document in one split only.

    Raises: BenchmarkError if splits can't be filled, or a prompt can't be made or doesn't fit the context window.
    """
    documents, chosen, clusters = choose_documents(
        task, seed=config.seed, drop=config.overlap == "drop", every=config.every_item, cluster=config.cluster
    )
    wanted: dict[str, set[int]] = defaultdict(set)
    for split in task.splits:
        wanted[source_of(task, split)] |= set(chosen[split])
    built = {
        source: _build(
            task,
            next(documents[split] for split in task.splits if source_of(task, split) == source),
            indices,
            config,
            encoder,
            clusters.get(source),
        )
        for source, indices in wanted.items()
    }
    return {split: [built[source_of(task, split)][index] for index in chosen[split]] for split in task.splits}


def _build(
    task: LoadedTask,
    documents: Any,
    indices: set[int],
    config: BenchmarkConfig,
    encoder: Encoder,
    clusters: Sequence[str] | None,
) -> dict[int, Item]:
    """Items of some documents of one data-set split, with the prompts that a stock evaluation of it makes."""
    lm_task = task.task
    # Few-shot examples are drawn document after document, so all of them are gone through in order.
    lm_task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    fewshot = int(lm_task.config.num_fewshot or 0)
    chat = (
        {"apply_chat_template": True, "chat_template": _template(encoder, task.place)}
        if config.apply_chat_template
        else {}
    )
    if config.apply_chat_template and encoder.tokenizer.chat_template is None:
        raise BenchmarkError(f"{task.place}: benchmark.apply_chat_template: the base's tokenizer has no chat template")
    multiturn = config.apply_chat_template if config.fewshot_as_multiturn is None else config.fewshot_as_multiturn
    items: dict[int, Item] = {}
    for index, document in enumerate(documents):
        if index > max(indices):
            break
        if index not in indices and not fewshot:
            continue
        context = lm_task.fewshot_context(
            document,
            num_fewshot=fewshot,
            system_instruction=config.system_instruction,
            fewshot_as_multiturn=multiturn,
            gen_prefix=lm_task.doc_to_prefix(document),
            **chat,
        )
        if index not in indices:
            continue
        made = lm_task.construct_requests(
            doc=document, ctx=context, metadata=(task.name, index, lm_task.config.repeats), **chat
        )
        instances = tuple(made if isinstance(made, list) else [made])
        encoded = [_encoded(encoder, instance, task, index) for instance in instances]
        items[index] = Item(
            id=_identity(task.name, document, instances),
            task=task.name,
            document=copy.deepcopy(document),
            instances=instances,
            requests=tuple(requests for requests, _ in encoded),
            cut=max((cut for _, cut in encoded), default=0),
            cluster="" if clusters is None else clusters[index],
        )
    return items


def _template(encoder: Encoder, place: str) -> Callable[..., str]:
    """The base's chat template, with the task's place in the errors of it."""

    def apply(chat: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        try:
            return encoder.apply_chat_template(chat, add_generation_prompt)
        except BenchmarkError as error:
            raise BenchmarkError(f"{place}: benchmark.apply_chat_template: {error}") from error

    return apply


def _encoded(
    encoder: Encoder, instance: Instance, task: LoadedTask, index: int
) -> tuple[tuple[TokenRequest, ...], int]:
    """The token requests of one lm-eval request, repeats included, and how many tokens its prompt lost."""
    try:
        return tuple(encoder.encode(instance) * (instance.repeats or 1)), encoder.cut
    except BenchmarkError as error:
        raise BenchmarkError(f"{task.place}.task: {task.name}, document {index}: {error}") from error


def _identity(task: str, document: Any, instances: tuple[Instance, ...]) -> str:
    parts = [task, document, [instance.args for instance in instances]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
