"""Generating text with a live model: rows join a running batch as others end.

Knows tokens and stop strings, neither tasks nor recipes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from evomerge.inference.batch import Task, Work, cache_kinds, check_time
from evomerge.inference.cache import PrefixCache
from evomerge.inference.choosing import seed_of
from evomerge.inference.decoding import Decoding, arguments, decoding_of, generating
from evomerge.inference.endings import Endings, not_finite
from evomerge.inference.forward import REFUSALS, agreement
from evomerge.inference.growing import GrowingRows
from evomerge.inference.masks import can_be_told
from evomerge.inference.prompts import Prompts
from evomerge.inference.slots import FixedSlots
from evomerge.inference.spread import devices_of, free_bytes_over
from evomerge.kernels.device_memory import is_out_of_memory
from evomerge.score.requests import GenerationRequest, GenerationResponse, Request

_log = logging.getLogger(__name__)

ROWS = {"cpu": 64, "cuda": 256}
"""Most rows that are continued at a time."""

# Tokens of a context on which it is tried how a model keeps its keys and values.
_TRIED = 48

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
        self._rows = ROWS.get(device.type, ROWS["cuda"])
        self._endings = Endings(tokenizer)
        self._prompts = Prompts(model, device=device, decoding=self._decoding)
        self._growing = GrowingRows(model, self._prompts, self._endings)
        self.slots = FixedSlots(model, self._prompts, self._endings, device=device)
        self.uses_slots: bool | None = None
        """Whether rows go on in fixed slots; not known before `check`."""
        kinds = cache_kinds(model.config)
        self._batches = kinds <= {"DynamicLayer", "DynamicSlidingWindowLayer"}
        self.shares_prefixes = kinds == {"DynamicLayer"}
        """Whether contexts may begin after a prefix: sliding windows count the padding between."""

    def respond(
        self,
        tasks: Sequence[Task],
        prefix: Callable[[int | None], PrefixCache | None],
        *,
        deadline: float | None = None,
    ) -> dict[int, GenerationResponse]:
        """Generate for every request; equal ones of which nothing is drawn, once.

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
            decoding = decodings[settings]
            self._together(
                chosen,
                Work(
                    waiting=deque(),
                    decoding=decoding,
                    prefix=prefix,
                    found=found,
                    deadline=deadline,
                    rows=self._rows,
                    tokens=self._tokens,
                ),
            )
        for places in same.values():
            found |= dict.fromkeys(places, found[places[0]])
        return found

    def check(self, requests: Iterable[Request]) -> None:
        """Find out early what transformers refuses. Raises: CheckpointError naming the settings."""
        asked = {request.sampling: request for request in requests if isinstance(request, GenerationRequest)}
        for request in asked.values():
            self._decoding(request)
        if asked and self.uses_slots is None:
            self.uses_slots = self._batches and self._fits_slots(next(iter(asked.values())).context)
            _log.info("generation is %s", "in fixed slots" if self.uses_slots else "with a cache that grows")

    @torch.inference_mode()
    def begins_alike(self, task: Task, prefix: PrefixCache) -> float:
        """Largest difference of the first token's logits after a prefix, from those after the whole context."""
        shared, whole = (self._prompts.first_logits([task[1].context], below).logits for below in (prefix, None))
        return float((shared - whole).float().abs().max())

    def _fits_slots(self, context: tuple[int, ...]) -> bool:
        """Whether the model is on one device and answers alike where each row's columns are its positions."""
        if not can_be_told(self._model.config) or len(devices_of(self._model)) > 1:
            return False
        lengths = sorted({max(1, min(len(context), _TRIED) // part) for part in (1, 2, 3)}, reverse=True)
        try:
            difference = self.slots.difference([context[:length] for length in lengths], self._growing)
        except torch.OutOfMemoryError:
            raise
        except REFUSALS as error:
            _log.debug("fixed slots are refused by the model: %s", error)
            return False
        return difference <= agreement(self._model.dtype)

    def _together(self, tasks: Sequence[Task], work: Work) -> None:
        """Answer all; on running out of memory, what isn't done yet in a smaller batch."""
        while waiting := deque(task for task in tasks if task[0] not in work.found):
            work.waiting, work.tokens = waiting, self._tokens
            longest = max(len(request.context) + work.decoding.most_tokens(request) for _, request, _ in waiting)
            rows = self.slots.rows_at_hand(min(len(waiting), self._rows), longest) if self.uses_slots else 0
            work.rows = min(self._rows, rows or self._affordable_rows(longest))
            try:
                (self.slots if self.uses_slots else self._growing).run(work)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self._rows == 1:
                    raise
                self._rows, self._tokens = self._rows // 2, max(1, self._tokens // 2)
                self.slots.release()
            else:
                return
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _decoding(self, request: GenerationRequest) -> Decoding:
        return decoding_of(self._model, request, padding=self._tokenizer.pad_token_id, device=self._device)

    def _alone(self, place: int, request: GenerationRequest, deadline: float | None) -> GenerationResponse:
        """Decode one request through transformers; what is drawn depends on its place alone."""
        removes_nan = self._decoding(request).removes_nan
        start, hold_stop = len(request.context), self._endings.hold_stop
        has_stop = False

        class _Stop(StoppingCriteria):
            def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
                nonlocal has_stop
                check_time(deadline)
                # As lm-eval looks for stop strings: of several beams in the first, and once found they stay found.
                has_stop = has_stop or hold_stop(request.stop, input_ids[0, start:].tolist())
                return torch.full((len(input_ids),), has_stop, dtype=torch.bool, device=input_ids.device)

        class _Finite(LogitsProcessor):
            def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
                if not removes_nan and not bool((scores < float("inf")).all()):
                    raise not_finite(place)
                return scores

        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), generating():
            torch.manual_seed(seed_of(place))
            made = self._model.generate(
                **arguments(request, padding=self._tokenizer.pad_token_id, device=self._device),
                logits_processor=LogitsProcessorList([_Finite()]),
                stopping_criteria=StoppingCriteriaList([_Stop()]),
                tokenizer=self._tokenizer,
            )
        return self._endings.response(made[0, start:].tolist(), request)

    def _affordable_rows(self, columns: int) -> int:
        """Rows of so many columns whose keys and values a quarter of the free memory holds."""
        config = getattr(self._model.config, "text_config", None) or self._model.config
        heads = getattr(config, "num_attention_heads", 1)
        size = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 512) // heads
        column = 2 * size * (getattr(config, "num_key_value_heads", None) or heads)
        column *= getattr(config, "num_hidden_layers", 1) * torch.finfo(self._model.dtype).bits // 8
        return int(max(1, min(self._rows, free_bytes_over(self._model) / 4 // (column * columns))))
