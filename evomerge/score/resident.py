"""Answering requests with a live model: what is planned once, and what each candidate costs.

Requests that share a context are packed into one row, so a question's choices compute it once; logits
are formed only where an answer is read. Knows tokens only, neither tasks nor recipes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.score.requests import (
    GenerationRequest,
    GenerationResponse,
    LogLikelihoodRequest,
    LogLikelihoodResponse,
    Request,
    Response,
)
from evomerge.streams import derive

BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}
"""Padded tokens in a forward pass when nothing is said."""

# In float32 packed and plain rows agree to about 1e-5; a model that ignores the mask is off by whole nats.
_AGREEMENT = 1e-3
_PROBED_ROWS = 3


@dataclass(frozen=True, slots=True)
class _Row:
    """One sequence of a forward pass: a context with the continuations that were asked for after it.

    `requests` are positions in the request list; `segments` their continuations in the same order. The
    row holds the context and of each continuation all but its last token, which nothing is read after.
    """

    context: tuple[int, ...]
    requests: tuple[int, ...]
    segments: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        return len(self.context) + sum(len(segment) - 1 for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Plan:
    """Requests in the order and batches in which a model answers them. Made by `ResidentModel.plan`."""

    num_requests: int
    rows: tuple[_Row, ...]
    """Longest first."""
    generations: tuple[tuple[int, GenerationRequest], ...]
    """With their position in the request list, longest context first."""
    packed: bool
    """Whether contexts are shared by their continuations."""

    @property
    def tokens(self) -> int:
        """Tokens in the forward passes of the log-likelihood rows, without padding."""
        return sum(row.length for row in self.rows)


class ResidentModel:
    """A causal language model that stays loaded while its weights change under it.

    Args:
        model: the live model; its parameters may be rewritten between calls of `respond`.
        tokenizer: of the base, to find stop strings in generated text.
        device: where the model is.
        batch_tokens: padded tokens in a forward pass; None takes a default for the device.
        max_length: unused by requests that come truncated; kept as the longest row that is planned.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, device: torch.device, batch_tokens: int | None, max_length: int | None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = torch.device(device)
        self._budget = batch_tokens or BATCH_TOKENS.get(self._device.type, BATCH_TOKENS["cuda"])
        self._max_length = max_length
        self._head_apart: bool | None = None

    def plan(self, requests: Sequence[Request]) -> Plan:
        """Sort and pack requests, once. Packing is tried out on the model and left out where it changes answers."""
        single = [
            _Row(request.context, (index,), (request.continuation,))
            for index, request in enumerate(requests)
            if isinstance(request, LogLikelihoodRequest)
        ]
        generations = sorted(
            ((index, request) for index, request in enumerate(requests) if isinstance(request, GenerationRequest)),
            key=lambda pair: (-len(pair[1].context), pair[0]),
        )
        shared = _shared_rows(single)
        packed = len(shared) < len(single) and self._packs_exactly(shared)
        rows = shared if packed else single
        return Plan(
            num_requests=len(requests),
            rows=tuple(sorted(rows, key=lambda row: (-row.length, row.requests))),
            generations=tuple(generations),
            packed=packed,
        )

    @torch.inference_mode()
    def respond(self, plan: Plan, *, deadline: float | None = None) -> list[Response]:
        """Answer every request, in request order.

        Args:
            plan: from `plan`.
            deadline: `time.monotonic()` value after which to give up.

        Raises:
            TimeoutError: the deadline has passed.
            MergeError: the model's outputs aren't finite.
            torch.OutOfMemoryError: not even one row fits.
        """
        answers: list[Response | None] = [None] * plan.num_requests
        for rows in self._batches([(row.length, row) for row in plan.rows], deadline):
            for row, found in zip(rows, self._score_rows(rows), strict=True):
                for index, response in zip(row.requests, found, strict=True):
                    answers[index] = response
        sized = [(len(request.context) + request.max_tokens, (index, request)) for index, request in plan.generations]
        for batch in self._batches(sized, deadline):
            self._generate(batch, answers, deadline)
        missing = [index for index, answer in enumerate(answers) if answer is None]
        assert not missing, f"requests without an answer: {missing[:3]}"
        return [answer for answer in answers if answer is not None]

    def _batches(self, sized: Sequence[tuple[int, Any]], deadline: float | None) -> Iterator[list[Any]]:
        """Consecutive work, longest first, of at most the budget's padded tokens a batch."""
        start = 0
        while start < len(sized):
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError("the time for one candidate is over")
            longest = max(1, sized[start][0])
            count = max(1, self._budget // longest)
            yield [work for _, work in sized[start : start + count]]
            start += count

    def _score_rows(self, rows: Sequence[_Row]) -> list[list[LogLikelihoodResponse]]:
        """Answers of some rows; on running out of memory, of each half by itself."""
        try:
            return self._score_batch(rows)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            self._budget = max(1, self._budget // 2)
        torch.cuda.empty_cache()
        half = len(rows) // 2
        return self._score_rows(rows[:half]) + self._score_rows(rows[half:])

    def _score_batch(self, rows: Sequence[_Row]) -> list[list[LogLikelihoodResponse]]:
        """Log-probabilities of every continuation of every row, in one forward pass."""
        width = max(row.length for row in rows)
        tokens = torch.zeros((len(rows), width), dtype=torch.long)
        positions = torch.zeros((len(rows), width), dtype=torch.long)
        lengths = []
        read: list[int] = []
        wanted: list[int] = []
        for number, row in enumerate(rows):
            context, offset = len(row.context), len(row.context)
            tokens[number, :context] = torch.tensor(row.context)
            positions[number, :context] = torch.arange(context)
            for segment in row.segments:
                inner = len(segment) - 1
                if inner:
                    tokens[number, offset : offset + inner] = torch.tensor(segment[:-1])
                    positions[number, offset : offset + inner] = torch.arange(context, context + inner)
                read += [number * width + context - 1, *range(number * width + offset, number * width + offset + inner)]
                wanted += segment
                offset += inner
            lengths.append(offset)
        inputs: dict[str, Any] = {"input_ids": tokens.to(self._device), "use_cache": False}
        if any(len(row.segments) > 1 for row in rows):
            inputs["attention_mask"] = self._block_mask(rows, width)
            inputs["position_ids"] = positions.to(self._device)
        # Without packing rows are padded on the right, which a causal model never looks at.
        logits = self._logits(inputs, torch.tensor(read, device=self._device))
        target = torch.tensor(wanted, device=self._device)
        # One row of logits at a time would be slow, all in float32 large: the gather needs only the sums.
        chosen = logits.gather(1, target[:, None])[:, 0].float()
        log_probability = chosen - torch.logsumexp(logits.float(), dim=1)
        numbers = torch.stack([log_probability.double(), (logits.argmax(dim=1) == target).double()]).cpu()
        found: list[list[LogLikelihoodResponse]] = []
        cursor = 0
        for row in rows:
            answers = []
            for segment in row.segments:
                part = slice(cursor, cursor + len(segment))
                answers.append(
                    LogLikelihoodResponse(float(numbers[0, part].sum()), bool(numbers[1, part].min().item() == 1.0))
                )
                cursor += len(segment)
            found.append(answers)
        return found

    def _block_mask(self, rows: Sequence[_Row], width: int) -> Tensor:
        """Additive mask (rows, 1, width, width): each continuation sees the context and itself, nothing else."""
        allowed = torch.zeros((len(rows), width, width), dtype=torch.bool)
        causal = torch.ones((width, width), dtype=torch.bool).tril()
        for number, row in enumerate(rows):
            context, offset = len(row.context), len(row.context)
            allowed[number, :context, :context] = causal[:context, :context]
            for segment in row.segments:
                inner = len(segment) - 1
                part = slice(offset, offset + inner)
                allowed[number, part, :context] = True
                allowed[number, part, part] = causal[:inner, :inner]
                offset += inner
        # A padded position sees itself, so that no row of the softmax is empty.
        allowed |= torch.eye(width, dtype=torch.bool)
        dtype = self._model.dtype
        mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
        return mask[:, None].to(self._device)

    def _logits(self, inputs: dict[str, Any], read: Tensor) -> Tensor:
        """Logits at the flat positions `read`, shape (num_read, vocabulary)."""
        if self._head_apart is None:
            self._head_apart = self._head_is_all(inputs, read)
        if self._head_apart:
            hidden = self._model.base_model(**inputs)[0]
            logits: Tensor = self._model.get_output_embeddings()(hidden.flatten(0, 1)[read])
            return logits
        logits = self._model(**inputs).logits
        return logits.flatten(0, 1)[read]

    def _head_is_all(self, inputs: dict[str, Any], read: Tensor) -> bool:
        """Whether the model's logits are its head on the last hidden states; some models scale or cap them."""
        head = self._model.get_output_embeddings()
        if head is None or self._model.base_model is self._model:
            return False
        try:
            hidden = self._model.base_model(**inputs)[0]
            apart = head(hidden.flatten(0, 1)[read]).float()
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
        whole = self._model(**inputs).logits.flatten(0, 1)[read].float()
        return bool(torch.allclose(apart, whole, rtol=1e-2, atol=1e-2 * float(whole.abs().max())))

    @torch.inference_mode()
    def _packs_exactly(self, rows: Sequence[_Row]) -> bool:
        """Try packing on a few short rows: exact only if the model honours masks and positions."""
        window = getattr(self._model.config, "sliding_window", None)
        if window is not None and max(row.length for row in rows) > window:
            return False
        candidates = sorted((row for row in rows if len(row.segments) > 1), key=lambda row: (row.length, row.requests))
        probes = candidates[:_PROBED_ROWS] + candidates[-1:]
        try:
            packed = [answer for row in probes for answer in self._score_batch([row])[0]]
        except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError):
            return False
        plain = [
            self._score_batch([_Row(row.context, (0,), (segment,))])[0][0] for row in probes for segment in row.segments
        ]
        tolerance = _AGREEMENT if self._model.dtype == torch.float32 else 0.5
        return all(
            abs(one.log_probability - other.log_probability) <= tolerance * max(1.0, abs(other.log_probability) / 10)
            for one, other in zip(packed, plain, strict=True)
        )

    def _generate(
        self, batch: Sequence[tuple[int, GenerationRequest]], answers: list[Response | None], deadline: float | None
    ) -> None:
        """Generate for some requests; on running out of memory, for each half by itself."""
        greedy = [pair for pair in batch if not pair[1].sampling]
        sampled = [pair for pair in batch if pair[1].sampling]
        try:
            if greedy:
                for (index, _), response in zip(greedy, self._greedy([r for _, r in greedy], deadline), strict=True):
                    answers[index] = response
        except torch.OutOfMemoryError:
            if len(greedy) == 1:
                raise
            self._budget = max(1, self._budget // 2)
            torch.cuda.empty_cache()
            half = len(greedy) // 2
            self._generate(greedy[:half], answers, deadline)
            self._generate(greedy[half:], answers, deadline)
        for index, request in sampled:
            answers[index] = self._sample(index, request)

    def _greedy(self, requests: Sequence[GenerationRequest], deadline: float | None) -> list[GenerationResponse]:
        """Greedy decoding with a key-value cache; a row leaves the batch when it is finished."""
        width = max(len(request.context) for request in requests)
        tokens = torch.zeros((len(requests), width), dtype=torch.long)
        mask = torch.zeros((len(requests), width), dtype=torch.long)
        for number, request in enumerate(requests):
            tokens[number, width - len(request.context) :] = torch.tensor(request.context)
            mask[number, width - len(request.context) :] = 1
        tokens, mask = tokens.to(self._device), mask.to(self._device)
        ends = self._end_tokens()
        generated: list[list[int]] = [[] for _ in requests]
        active = list(range(len(requests)))
        lookback = {stop: self._stop_tokens(stop) for request in requests for stop in request.stop if stop}
        past: Any = None
        position = (mask.cumsum(1) - 1).clamp(min=0)
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError("the time for one candidate is over")
            output = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=position,
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
            past = output.past_key_values
            logits = output.logits[:, -1]
            if not bool(torch.isfinite(logits).all()):
                raise MergeError("generated logits are not finite; the merged weights make no usable model")
            new = logits.argmax(dim=1)
            kept = []
            for place, (number, token) in enumerate(zip(active, new.tolist(), strict=True)):
                generated[number].append(token)
                if not self._is_finished(generated[number], requests[number], token in ends, lookback):
                    kept.append(place)
            if len(kept) < len(active):
                active = [active[place] for place in kept]
                if not active:
                    break
                chosen = torch.tensor(kept, device=self._device)
                mask, new, position = mask[chosen], new[chosen], position[chosen]
                past.batch_select_indices(chosen)
            tokens = new[:, None]
            position = position[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones((len(active), 1))], dim=1)
        return [self._text(made, request) for made, request in zip(generated, requests, strict=True)]

    def _sample(self, index: int, request: GenerationRequest) -> GenerationResponse:
        """Sampled decoding through transformers, from a stream that depends on the request alone."""
        from transformers import StoppingCriteria, StoppingCriteriaList

        resident = self
        start = len(request.context)
        lookback = {stop: self._stop_tokens(stop) for stop in request.stop if stop}

        class _Stop(StoppingCriteria):
            def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
                made = input_ids[0, start:].tolist()
                done = resident._is_finished(made, request, False, lookback)
                return torch.full((1,), done, dtype=torch.bool, device=input_ids.device)

        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(0, "sample", index, bits=63))
            context = torch.tensor([request.context], device=self._device)
            made = self._model.generate(
                input_ids=context,
                attention_mask=torch.ones_like(context),
                max_new_tokens=request.max_tokens,
                stopping_criteria=StoppingCriteriaList([_Stop()]),
                pad_token_id=self._tokenizer.pad_token_id or 0,
                **dict(request.sampling),
            )
        return self._text(made[0, start:].tolist(), request)

    def _is_finished(self, made: list[int], request: GenerationRequest, at_end: bool, lookback: dict[str, int]) -> bool:
        """Whether a row stops here: end token, length, or a stop string among its last tokens, as lm-eval looks."""
        if at_end or len(made) >= request.max_tokens:
            return True
        stops = [stop for stop in request.stop if stop]
        if not stops:
            return False
        tail = self._tokenizer.decode(made[-max(lookback[stop] for stop in stops) :])
        return any(stop in tail for stop in stops)

    def _stop_tokens(self, stop: str) -> int:
        """How many last tokens can hold a stop string; two more than its own, since it may be split otherwise."""
        return len(self._tokenizer.encode(stop, add_special_tokens=False)) + 2

    def _end_tokens(self) -> set[int]:
        """Tokens after which transformers' own generation ends a sequence."""
        settings = getattr(self._model, "generation_config", None)
        ends = getattr(settings, "eos_token_id", None)
        if ends is None:
            return set()
        return set(ends) if isinstance(ends, list | tuple) else {int(ends)}

    def _text(self, made: list[int], request: GenerationRequest) -> GenerationResponse:
        """The text before the first stop string."""
        text: str = self._tokenizer.decode(made, skip_special_tokens=True)
        for stop in request.stop:
            if stop:
                text = text.split(stop)[0]
        return GenerationResponse(text=text, tokens=len(made))


def _shared_rows(rows: Sequence[_Row]) -> list[_Row]:
    """Rows with the same context joined into one, in order of first appearance."""
    joined: dict[tuple[int, ...], list[_Row]] = defaultdict(list)
    for row in rows:
        joined[row.context].append(row)
    return [
        _Row(
            context,
            tuple(index for row in same for index in row.requests),
            tuple(segment for row in same for segment in row.segments),
        )
        for context, same in joined.items()
    ]
