"""Reference answers of items: what a task's documents say is right, as continuations of its prompts."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance

from evomerge.benchmark.lm_eval.items import Item
from evomerge.benchmark.lm_eval.prompts import Encoder
from evomerge.errors import BenchmarkError, shown
from evomerge.score.requests import LogLikelihoodRequest, TokenRequest


def right_choices(task: Any, document: Any) -> list[int]:
    """Numbers of a multiple choice's right answers; -1 for one that isn't among the choices."""
    gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    choices = task.doc_to_choice(document)
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else -1
    return [
        index if isinstance(index, int) and 0 <= index < len(choices) else -1
        for index in (gold if isinstance(gold, list) else [gold])
    ]


def reference_of(task: Any, item: Item, encoder: Encoder) -> tuple[LogLikelihoodRequest, ...]:
    """What a model that is right would say to an item: one continuation, or all windows of a text.

    Of several right answers the first is taken. A generated answer follows its prompt as the answers of few-shot
    examples do.

    Args:
        task: lm-eval's Task.
        item: one of its items.
        encoder: makes the tokens of what is to be generated.

    Raises: BenchmarkError if the document doesn't say what is right, or the answer doesn't fit the context window.
    """
    if task.OUTPUT_TYPE == "multiple_choice":
        right = right_choices(task, item.document)[:1]
        if right in ([], [-1]):
            raise BenchmarkError("its document names no right choice")
        return _continuations(item.requests[right[0]])
    if task.OUTPUT_TYPE != "generate_until":
        return tuple(request for requests in item.requests for request in _continuations(requests))
    context = item.instances[0].args[0]
    arguments = (context, _target(task, item.document, context))
    found = encoder.encode(Instance(request_type="loglikelihood", doc=item.document, arguments=arguments, idx=0))
    return _continuations(found)


def _continuations(requests: tuple[TokenRequest, ...] | list[TokenRequest]) -> tuple[LogLikelihoodRequest, ...]:
    return tuple(request for request in requests if isinstance(request, LogLikelihoodRequest))


def _target(task: Any, document: Any, context: str) -> str:
    """The text of the first right answer, apart from a prompt that doesn't end with a space."""
    target = task.doc_to_target(document)
    target = target[0] if isinstance(target, list | tuple) and target else target
    if isinstance(target, int) and not isinstance(target, bool) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(document)[target]
    if not isinstance(target, str | int | float) or not str(target).strip():
        raise BenchmarkError(f"its document has no target to take as the right answer (found {shown(target)})")
    delimiter = "" if context[-1:].isspace() else str(task.config.target_delimiter)
    return f"{delimiter}{target}"
