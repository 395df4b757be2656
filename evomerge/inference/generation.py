"""Generating text with a live model: rows join a running batch as others end.

Knows tokens and stop strings, neither tasks nor recipes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.inference.batch import Batch, Running, cache_kinds
from evomerge.inference.cache import Columns, Kept
from evomerge.inference.memory import free_bytes, is_out_of_memory
from evomerge.score.requests import GenerationRequest, GenerationResponse
from evomerge.streams import derive

SLOTS = {"cpu": 64, "cuda": 256}
"""Most rows that are continued at a time."""

Task = tuple[int, GenerationRequest, int | None]
"""Position in the request list, the request, and the number of the prefix that it continues."""


class Generator:
    """Continues contexts until a stop string, an end token or their length.

    Args:
        model: the live model.
        tokenizer: of the base, to find stop strings in generated text.
        device: where the model is.
        tokens: padded tokens in a forward pass over contexts.
    """

    def __init__(self, model: Any, tokenizer: Any, *, device: torch.device, tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._tokens = tokens
        self._slots = SLOTS.get(device.type, SLOTS["cuda"])
        self._texts: dict[int, str] = {}
        self._lookbacks: dict[str, int] = {}
        kinds = cache_kinds(model.config)
        self._batches = kinds <= {"DynamicLayer", "DynamicSlidingWindowLayer"}
        self.shares_prefixes = kinds == {"DynamicLayer"}
        """Whether contexts may begin after a prefix: sliding windows count the padding between."""

    def respond(
        self,
        tasks: Sequence[Task],
        prefix: Callable[[int | None], Kept | None],
        *,
        deadline: float | None = None,
    ) -> dict[int, GenerationResponse]:
        """Generate for every request; equal greedy ones once.

        Args:
            tasks: in the order in which they should be begun.
            prefix: gives a prefix's keys and values by number.
            deadline: `time.monotonic()` value after which to give up.

        Returns: the responses by position.
        Raises: TimeoutError, MergeError, torch.OutOfMemoryError as `ResidentModel.respond`.
        """
        found: dict[int, GenerationResponse] = {}
        same: dict[GenerationRequest, list[int]] = {}
        chosen = []
        for task in tasks:
            place, request, _ = task
            if request.sampling:
                found[place] = self._alone(place, request, deadline)
                continue
            if request not in same:
                chosen.append(task)
            same.setdefault(request, []).append(place)
        if self._batches:
            self._greedy(chosen, prefix, found, deadline)
        else:
            found |= {place: self._alone(place, request, deadline) for place, request, _ in chosen}
        for places in same.values():
            found |= dict.fromkeys(places, found[places[0]])
        return found

    @torch.inference_mode()
    def begins_alike(self, task: Task, kept: Kept) -> float:
        """Largest difference of the first token's logits after a prefix, from those after the whole context."""
        _, request, _ = task
        columns = kept.cache.layers[0].keys.shape[2]
        shared = self._first_logits([request.context], kept, columns)[1]
        return float((shared - self._first_logits([request.context], None, 0)[1]).float().abs().max())

    def _greedy(
        self,
        tasks: Sequence[Task],
        prefix: Callable[[int | None], Kept | None],
        found: dict[int, GenerationResponse],
        deadline: float | None,
    ) -> None:
        """Greedy decoding of all; on running out of memory, of what isn't done yet in a smaller batch."""
        while waiting := deque(task for task in tasks if task[0] not in found):
            try:
                self._run(waiting, prefix, found, deadline)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self._slots == 1:
                    raise
                self._slots, self._tokens = self._slots // 2, max(1, self._tokens // 2)
            else:
                return
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _run(
        self,
        waiting: deque[Task],
        prefix: Callable[[int | None], Kept | None],
        found: dict[int, GenerationResponse],
        deadline: float | None,
    ) -> None:
        slots = self._affordable_slots(waiting)
        batch: Batch | None = None
        while True:
            # Joining copies every row's columns, so it is done for several rows at a time.
            if waiting and (batch is None or batch.num_going <= slots * 3 // 4):
                if batch is not None:
                    batch.drop_finished()
                while waiting and (batch is None or len(batch.rows) < slots):
                    _check_time(deadline)
                    room = slots - (0 if batch is None else len(batch.rows))
                    fresh = self._begin(waiting, room, prefix)
                    self._take(fresh, found)
                    fresh.drop_finished()
                    batch = fresh if batch is None else batch.joined(fresh)
            assert batch is not None
            if not batch.num_going:
                if not waiting:
                    return
                continue
            if batch.num_going <= len(batch.rows) * 3 // 4:
                batch.drop_finished()
            _check_time(deadline)
            self._step(batch)
            self._take(batch, found)

    def _begin(self, waiting: deque[Task], room: int, prefix: Callable[[int | None], Kept | None]) -> Batch:
        """Run the contexts of the next requests that continue the same prefix."""
        number = waiting[0][2]
        kept = prefix(number)
        columns = 0 if kept is None else kept.cache.layers[0].keys.shape[2]
        chosen: list[Task] = []
        width = 0
        while waiting and len(chosen) < room and waiting[0][2] == number:
            width = max(width, len(waiting[0][1].context) - columns)
            if chosen and width * (len(chosen) + 1) > self._tokens:
                break
            chosen.append(waiting.popleft())
        batch, logits = self._first_logits([request.context for _, request, _ in chosen], kept, columns)
        batch.rows = [Running(place, request, []) for place, request, _ in chosen]
        batch.logits = logits
        return batch

    def _first_logits(
        self, contexts: Sequence[tuple[int, ...]], kept: Kept | None, columns: int
    ) -> tuple[Batch, Tensor]:
        """A batch of contexts, padded on the left behind their prefix, and the logits of their next tokens."""
        width = max(len(context) for context in contexts) - columns
        tokens = torch.zeros((len(contexts), width), dtype=torch.long)
        mask = torch.ones((len(contexts), columns + width), dtype=torch.long)
        for number, context in enumerate(contexts):
            padding = width + columns - len(context)
            tokens[number, padding:] = torch.tensor(context[columns:])
            mask[number, columns : columns + padding] = 0
        mask = mask.to(self._device)
        positions = (mask.cumsum(1) - 1)[:, columns:].clamp(min=0)
        batch = Batch(Columns(kept, len(contexts)), mask, positions, tokens.to(self._device))
        return batch, self._logits(batch)

    def _step(self, batch: Batch) -> None:
        """The logits after each row's last token."""
        batch.positions = batch.positions[:, -1:] + 1
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones((len(batch.rows), 1))], dim=1)
        batch.logits = self._logits(batch)

    def _logits(self, batch: Batch) -> Tensor:
        output = self._model(
            input_ids=batch.tokens,
            attention_mask=batch.mask if batch.is_padded else None,
            position_ids=batch.positions,
            past_key_values=batch.columns.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _take(self, batch: Batch, found: dict[int, GenerationResponse]) -> None:
        """Add each row's most probable token, and note the answers of rows that end with it."""
        best, tokens = batch.logits.max(dim=1)
        batch.tokens = tokens[:, None]
        best_values = best.tolist()
        for row, token, value in zip(batch.rows, tokens.tolist(), best_values, strict=True):
            if row.is_finished:
                continue
            # A NaN is the largest of its row.
            if not -float("inf") < value < float("inf"):
                raise MergeError(
                    "generated logits are not finite; the merged weights make no usable model", request=row.place
                )
            row.made.append(token)
            if self._ends(row.made, row.request, token in self._end_tokens):
                row.is_finished = True
                found[row.place] = self._response(row.made, row.request)

    def _alone(self, place: int, request: GenerationRequest, deadline: float | None) -> GenerationResponse:
        """Decode one request through transformers; what is drawn depends on its place alone."""
        from transformers import StoppingCriteria, StoppingCriteriaList

        generator, start = self, len(request.context)

        class _Stop(StoppingCriteria):
            def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
                _check_time(deadline)
                done = generator._ends(input_ids[0, start:].tolist(), request, False)
                return torch.full((1,), done, dtype=torch.bool, device=input_ids.device)

        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(0, "sample", place, bits=63))
            context = torch.tensor([request.context], device=self._device)
            made = self._model.generate(
                input_ids=context,
                attention_mask=torch.ones_like(context),
                max_new_tokens=request.max_tokens,
                stopping_criteria=StoppingCriteriaList([_Stop()]),
                pad_token_id=self._tokenizer.pad_token_id or 0,
                **{"do_sample": False, **dict(request.sampling)},
            )
        return self._response(made[0, start:].tolist(), request)

    def _ends(self, made: list[int], request: GenerationRequest, at_end: bool) -> bool:
        """Whether a row stops here: end token, length, or a stop string among its last tokens, as lm-eval looks."""
        if at_end or len(made) >= request.max_tokens:
            return True
        stops = [stop for stop in request.stop if stop]
        if not stops or not self._may_end(made[-1], stops):
            return False
        tail = self._tokenizer.decode(made[-max(self._lookback(stop) for stop in stops) :])
        return any(stop in tail for stop in stops)

    def _may_end(self, token: int, stops: Iterable[str]) -> bool:
        """Whether a stop string can end with this token, which is cheaper to ask than the text of the last ones."""
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = str(self._tokenizer.decode([token]))
        # Part of a character, or nothing seen by itself; and tokenizers drop a first space.
        if not text.strip() or "\N{REPLACEMENT CHARACTER}" in text:
            return True
        return any(stop[-1] in text or stop[-1].isspace() for stop in stops)

    def _lookback(self, stop: str) -> int:
        """How many last tokens can hold a stop string; two more than its own, since it may be split otherwise."""
        if stop not in self._lookbacks:
            self._lookbacks[stop] = len(self._tokenizer.encode(stop, add_special_tokens=False)) + 2
        return self._lookbacks[stop]

    @property
    def _end_tokens(self) -> set[int]:
        """Tokens after which transformers' own generation ends a sequence."""
        settings = getattr(self._model, "generation_config", None)
        ends = getattr(settings, "eos_token_id", None)
        if ends is None:
            return set()
        return set(ends) if isinstance(ends, list | tuple) else {int(ends)}

    def _response(self, made: list[int], request: GenerationRequest) -> GenerationResponse:
        """The text before the first stop string."""
        text: str = self._tokenizer.decode(made, skip_special_tokens=True)
        for stop in request.stop:
            if stop:
                text = text.split(stop)[0]
        return GenerationResponse(text=text, tokens=len(made))

    def _affordable_slots(self, waiting: Iterable[Task]) -> int:
        """Rows whose keys and values a quarter of the free memory holds."""
        config = getattr(self._model.config, "text_config", None) or self._model.config
        heads = getattr(config, "num_attention_heads", 1)
        size = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 512) // heads
        column = 2 * size * (getattr(config, "num_key_value_heads", None) or heads)
        column *= getattr(config, "num_hidden_layers", 1) * torch.finfo(self._model.dtype).bits // 8
        longest = max(len(request.context) + request.max_tokens for _, request, _ in waiting)
        return int(max(1, min(self._slots, free_bytes(self._device) / 4 // (column * longest))))


def _check_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("the time for one candidate is over")
