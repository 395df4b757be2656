"""Prompts of texts that are generated: their first pass, behind a prefix that is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.inference.batch import Batch, Running, Task, Work
from evomerge.inference.cache import Columns, PrefixCache
from evomerge.inference.choosing import generator_of
from evomerge.inference.decoding import PADDING, Decoding
from evomerge.score.requests import GenerationRequest


class Prompts:
    """Runs contexts, several at a time.

    Args:
        model: the live model.
        device: where it is.
        decoding: of one request, made anew for each row.
    """

    def __init__(self, model: Any, *, device: torch.device, decoding: Callable[[GenerationRequest], Decoding]) -> None:
        self._model = model
        self._device = device
        self._decoding = decoding

    def begin(self, work: Work, room: int) -> Batch:
        """Run the contexts of the next requests that continue the same prefix, at most `room` of them."""
        waiting = work.waiting
        number = waiting[0][2]
        prefix = work.prefix(number)
        columns = 0 if prefix is None else prefix.columns
        chosen: list[Task] = []
        width = 0
        while waiting and len(chosen) < room and waiting[0][2] == number:
            width = max(width, len(waiting[0][1].context) - columns)
            if chosen and width * (len(chosen) + 1) > work.tokens:
                break
            chosen.append(waiting.popleft())
        batch = self.first_logits([request.context for _, request, _ in chosen], prefix)
        shared = work.decoding
        for place, request, _ in chosen:
            # Each row's own: they know its length, and some its tokens.
            processors = self._decoding(request).processors if shared.processors else shared.processors
            generator = generator_of(place, self._device) if shared.draws else None
            batch.rows.append(
                Running(place=place, request=request, made=[], processors=processors, generator=generator)
            )
        return batch

    def first_logits(self, contexts: Sequence[tuple[int, ...]], prefix: PrefixCache | None) -> Batch:
        """A batch of contexts, padded on the left behind their prefix, with the logits of their next tokens."""
        columns = 0 if prefix is None else prefix.columns
        width = max(len(context) for context in contexts) - columns
        tokens = torch.zeros((len(contexts), width), dtype=torch.long)
        seen = torch.full((len(contexts), columns + width), PADDING)
        for number, context in enumerate(contexts):
            padding = width + columns - len(context)
            tokens[number, padding:] = torch.tensor(context[columns:])
            seen[number, :columns] = torch.tensor(context[:columns])
            seen[number, columns + padding :] = tokens[number, padding:]
        seen = seen.to(self._device)
        mask = (seen != PADDING).long()
        positions = (mask.cumsum(1) - 1)[:, columns:].clamp(min=0)
        batch = Batch(Columns(prefix, len(contexts)), seen, mask, positions, tokens.to(self._device))
        batch.logits = next_logits(self._model, batch)
        return batch


def next_logits(model: Any, batch: Batch) -> Tensor:
    """Of the token after each row's last one, shape (rows, vocabulary)."""
    output = model(
        input_ids=batch.tokens,
        attention_mask=batch.mask if batch.is_padded else None,
        position_ids=batch.positions,
        past_key_values=batch.columns.cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1]
    return logits
