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
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from evomerge.errors import MergeError
from evomerge.inference.batch import Batch, Running, cache_kinds
from evomerge.inference.cache import Columns, Kept
from evomerge.inference.decoding import PADDING, Decoding, arguments, decoding_of, generating, processed
from evomerge.inference.memory import free_bytes, is_out_of_memory
from evomerge.score.requests import GenerationRequest, GenerationResponse, Request
from evomerge.streams import derive

SLOTS = {"cpu": 64, "cuda": 256}
"""Most rows that are continued at a time."""

Task = tuple[int, GenerationRequest, int | None]
"""Position in the request list, the request, and the number of the prefix that it continues."""
Settings = tuple[tuple[str, Any], ...]
"""What a request asks of transformers beyond the model's generation config."""


class Generator:
    """Continues contexts until a stop string, an end token or their length, as transformers' own generate does.

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
        together: dict[Settings, list[Task]] = {}
        decodings: dict[Settings, Decoding] = {}
        for task in tasks:
            place, request, _ = task
            if request.sampling not in decodings:
                decodings[request.sampling] = self._decoding(request)
            decoding = decodings[request.sampling]
            if not decoding.draws:
                same.setdefault(request, []).append(place)
                if same[request] != [place]:
                    continue
            if self._batches and decoding.is_rowwise:
                together.setdefault(request.sampling, []).append(task)
            else:
                found[place] = self._alone(place, request, deadline)
        for settings, chosen in together.items():
            self._greedy(chosen, decodings[settings], prefix, found, deadline)
        for places in same.values():
            found |= dict.fromkeys(places, found[places[0]])
        return found

    def check(self, requests: Iterable[Request]) -> None:
        """Find out early what transformers refuses. Raises: CheckpointError naming the settings."""
        asked = {request.sampling: request for request in requests if isinstance(request, GenerationRequest)}
        for request in asked.values():
            self._decoding(request)

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
        decoding: Decoding,
        prefix: Callable[[int | None], Kept | None],
        found: dict[int, GenerationResponse],
        deadline: float | None,
    ) -> None:
        """Greedy decoding of all; on running out of memory, of what isn't done yet in a smaller batch."""
        while waiting := deque(task for task in tasks if task[0] not in found):
            try:
                self._run(waiting, decoding, prefix, found, deadline)
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
        decoding: Decoding,
        prefix: Callable[[int | None], Kept | None],
        found: dict[int, GenerationResponse],
        deadline: float | None,
    ) -> None:
        slots = self._affordable_slots(waiting, decoding)
        batch: Batch | None = None
        while True:
            # Joining copies every row's columns, so it is done for several rows at a time.
            if waiting and (batch is None or batch.num_going <= slots * 3 // 4):
                if batch is not None:
                    batch.drop_finished()
                while waiting and (batch is None or len(batch.rows) < slots):
                    _check_time(deadline)
                    room = slots - (0 if batch is None else len(batch.rows))
                    fresh = self._begin(waiting, decoding, room, prefix)
                    self._take(fresh, decoding, found)
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
            self._take(batch, decoding, found)

    def _begin(
        self, waiting: deque[Task], decoding: Decoding, room: int, prefix: Callable[[int | None], Kept | None]
    ) -> Batch:
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
        for place, request, _ in chosen:
            # Each row's own: they know its length, and some its tokens.
            own = self._decoding(request).processors if decoding.processors else decoding.processors
            batch.rows.append(Running(place, request, [], own))
        batch.logits = logits
        return batch

    def _first_logits(
        self, contexts: Sequence[tuple[int, ...]], kept: Kept | None, columns: int
    ) -> tuple[Batch, Tensor]:
        """A batch of contexts, padded on the left behind their prefix, and the logits of their next tokens."""
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
        batch = Batch(Columns(kept, len(contexts)), seen, mask, positions, tokens.to(self._device))
        return batch, self._logits(batch)

    def _step(self, batch: Batch) -> None:
        """The logits after each row's last token."""
        batch.positions = batch.positions[:, -1:] + 1
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones((len(batch.rows), 1))], dim=1)
        batch.seen = torch.cat([batch.seen, batch.tokens], dim=1)
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

    def _take(self, batch: Batch, decoding: Decoding, found: dict[int, GenerationResponse]) -> None:
        """Add each row's most probable token, and note the answers of rows that end with it."""
        best, tokens = batch.logits.max(dim=1)
        if decoding.processors:
            tokens = processed([row.processors for row in batch.rows], batch.seen, batch.logits).argmax(dim=1)
        batch.tokens = tokens[:, None]
        best_values = best.tolist()
        for row, token, value in zip(batch.rows, tokens.tolist(), best_values, strict=True):
            if row.is_finished:
                continue
            # A NaN is the largest of its row.
            if not -float("inf") < value < float("inf") and not decoding.removes_nan:
                raise _not_finite(row.place)
            row.made.append(token)
            at_end = token in decoding.ends or len(row.made) >= decoding.most_tokens(row.request)
            if at_end or self._holds_stop(row.made, row.request):
                row.is_finished = True
                found[row.place] = self._response(row.made, row.request)

    def _decoding(self, request: GenerationRequest) -> Decoding:
        return decoding_of(self._model, request, padding=self._tokenizer.pad_token_id, device=self._device)

    def _alone(self, place: int, request: GenerationRequest, deadline: float | None) -> GenerationResponse:
        """Decode one request through transformers; what is drawn depends on its place alone."""
        removes_nan = self._decoding(request).removes_nan
        start, ends_with = len(request.context), self._ends_with
        has_stop = False

        class _Stop(StoppingCriteria):
            def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
                nonlocal has_stop
                _check_time(deadline)
                # As lm-eval looks for stop strings: of several beams in the first, and once found they stay found.
                has_stop = has_stop or ends_with(request.stop, input_ids[0, start:].tolist())
                return torch.full((len(input_ids),), has_stop, dtype=torch.bool, device=input_ids.device)

        class _Finite(LogitsProcessor):
            def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
                if not removes_nan and not bool((scores < float("inf")).all()):
                    raise _not_finite(place)
                return scores

        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), generating():
            torch.manual_seed(derive(0, "sample", place, bits=63))
            made = self._model.generate(
                **arguments(request, padding=self._tokenizer.pad_token_id, device=self._device),
                logits_processor=LogitsProcessorList([_Finite()]),
                stopping_criteria=StoppingCriteriaList([_Stop()]),
                tokenizer=self._tokenizer,
            )
        return self._response(made[0, start:].tolist(), request)

    def _holds_stop(self, made: list[int], request: GenerationRequest) -> bool:
        """Whether a text whose last token is new ends with a stop string."""
        return self._may_end(made[-1], request.stop) and self._ends_with(request.stop, made)

    def _ends_with(self, stops: Sequence[str], made: list[int]) -> bool:
        """Whether a stop string is among the last tokens, as lm-eval looks."""
        return any(stop in self._tokenizer.decode(made[-self._lookback(stop) :]) for stop in stops)

    def _may_end(self, token: int, stops: Iterable[str]) -> bool:
        """Whether a stop string can end with this token, which is cheaper to ask than the text of the last ones."""
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = str(self._tokenizer.decode([token]))
        # Part of a character, or nothing seen by itself; and tokenizers drop a first space.
        if not text.strip() or "\N{REPLACEMENT CHARACTER}" in text:
            return True
        return any(stop[-1:] in text or stop[-1].isspace() for stop in stops)

    def _lookback(self, stop: str) -> int:
        """How many last tokens can hold a stop string; two more than its own, since it may be split otherwise."""
        if stop not in self._lookbacks:
            self._lookbacks[stop] = len(self._tokenizer.encode(stop, add_special_tokens=False)) + 2
        return self._lookbacks[stop]

    def _response(self, made: list[int], request: GenerationRequest) -> GenerationResponse:
        """The text before the first stop string."""
        text: str = self._tokenizer.decode(made, skip_special_tokens=True)
        for stop in request.stop:
            if stop:
                text = text.split(stop)[0]
        return GenerationResponse(text=text, tokens=len(made))

    def _affordable_slots(self, waiting: Iterable[Task], decoding: Decoding) -> int:
        """Rows whose keys and values a quarter of the free memory holds."""
        config = getattr(self._model.config, "text_config", None) or self._model.config
        heads = getattr(config, "num_attention_heads", 1)
        size = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 512) // heads
        column = 2 * size * (getattr(config, "num_key_value_heads", None) or heads)
        column *= getattr(config, "num_hidden_layers", 1) * torch.finfo(self._model.dtype).bits // 8
        longest = max(len(request.context) + decoding.most_tokens(request) for _, request, _ in waiting)
        return int(max(1, min(self._slots, free_bytes(self._device) / 4 // (column * longest))))


def _not_finite(place: int) -> MergeError:
    return MergeError("generated logits are not finite; the merged weights make no usable model", request=place)


def _check_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("the time for one candidate is over")
