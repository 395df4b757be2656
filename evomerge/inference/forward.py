"""Forward passes over planned rows: shared prefixes once, answers read where they are asked for.

Knows rows and memory. Does not know which form of a plan the model answers alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.inference.batches import Costs, batches
from evomerge.inference.cache import PrefixCache
from evomerge.inference.masks import attention_masks, windows_of
from evomerge.inference.plan import Plan
from evomerge.inference.spread import free_bytes_over
from evomerge.inference.trie import Row
from evomerge.kernels.device_memory import is_out_of_memory
from evomerge.score.requests import LogLikelihoodRequest, LogLikelihoodResponse

# Logits of so many entries at a time, so that memory doesn't grow with the vocabulary.
_LOGITS = 1 << 25
REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError)
"""What a model raises that doesn't take the inputs it is given."""


def agreement(dtype: torch.dtype) -> float:
    """By how much logits and log-likelihoods may differ between forms that a model follows.

    In float32 all forms agree to about 1e-5.
    """
    return 1e-3 if dtype == torch.float32 else 0.5


class SharedPrefixes:
    """What one set of weights makes of a plan's prefixes. Make a new one whenever the weights change."""

    def __init__(self) -> None:
        self.caches: dict[int, PrefixCache] = {}
        self.values: dict[int, tuple[Tensor, Tensor]] = {}


class ForwardPasses:
    """Runs a live model on rows of tokens.

    Args:
        model: its parameters may be rewritten between calls.
        device: where it takes its inputs.
        budget: padded tokens in a pass; halved where memory runs out.
    """

    def __init__(self, model: Any, *, device: torch.device, budget: int) -> None:
        self.model = model
        self.device = device
        self.budget = budget
        self._head_apart: bool | None = None
        self._windows = windows_of(model.config)
        self._costs = Costs.of(model.config.to_dict(), device.type)

    def compute(
        self,
        plan: Plan,
        rows: Sequence[Row],
        needed: Sequence[int],
        prefixes: SharedPrefixes,
        values: Tensor,
        greedy: Tensor,
        deadline: float | None,
    ) -> None:
        """Fill in the answer tokens of rows and of the prefixes that they need."""
        open_path: list[int] = []
        for prefix, batch in self._batches(plan, rows, needed):
            _check_time(deadline)
            path = path_to(plan, prefix)
            if path != open_path:
                for number in open_path:
                    # Rows come by prefix in depth-first order, so what isn't above this one isn't needed again here.
                    if number not in path and not self._may_keep(prefixes):
                        prefixes.caches.pop(number, None)
                open_path = path
            below = self.keep_prefixes(plan, path, prefixes)
            if batch:
                self.score_rows(batch, below, values, greedy)
        for number in needed:
            for answers, target in zip(prefixes.values[number], (values, greedy), strict=True):
                target[plan.prefixes[number].slots.to(self.device)] = answers

    def _batches(
        self, plan: Plan, rows: Sequence[Row], needed: Sequence[int]
    ) -> Iterator[tuple[int | None, list[Row]]]:
        """Rows below the same prefix, of at most the budget's padded tokens a batch."""
        by_prefix: dict[int | None, list[Row]] = {None: [], **{number: [] for number in needed}}
        for row in rows:
            by_prefix[row.prefix].append(row)
        for prefix, below in by_prefix.items():
            if not below and prefix is not None:
                yield prefix, []
            for batch in batches(below, self.budget, self._costs):
                yield prefix, batch

    def keep_prefixes(self, plan: Plan, path: Sequence[int], prefixes: SharedPrefixes) -> PrefixCache | None:
        """Keys and values of the last prefix of a path, computed from its parents' where they aren't at hand."""
        below: PrefixCache | None = None
        for number in path:
            if number not in prefixes.caches:
                row = plan.prefixes[number]
                prefix = PrefixCache() if below is None else below.copy()
                prefixes.values[number] = self._forward([row], prefix)
                prefixes.caches[number] = prefix
            below = prefixes.caches[number]
        return below

    def _may_keep(self, prefixes: SharedPrefixes) -> bool:
        """Whether there is room for the prefixes at hand and more, for later blocks."""
        return sum(prefix.size_bytes for prefix in prefixes.caches.values()) < free_bytes_over(self.model) / 4

    def score_rows(self, rows: Sequence[Row], below: PrefixCache | None, values: Tensor, greedy: Tensor) -> None:
        """Fill in the answers of some rows; on running out of memory, of each half by itself."""
        try:
            found = self._forward(rows, None if below is None else below.below(len(rows)))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(rows) == 1:
                raise
            self.budget = max(1, self.budget // 2)
        else:
            slots = torch.cat([row.slots for row in rows]).to(self.device)
            values[slots], greedy[slots] = found
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(rows) // 2
        self.score_rows(rows[:half], below, values, greedy)
        self.score_rows(rows[half:], below, values, greedy)

    def _forward(self, rows: Sequence[Row], prefix: PrefixCache | None) -> tuple[Tensor, Tensor]:
        """Log-probability of every answer token of some rows, and whether it is the most probable one."""
        width = max(row.length for row in rows)
        start = rows[0].start
        tokens = torch.zeros((len(rows), width), dtype=torch.long)
        positions = torch.zeros((len(rows), width), dtype=torch.long)
        # A padded node reaches only itself, so that no row of the softmax is empty.
        ends = torch.arange(1, width + 1).repeat(len(rows), 1)
        picks: list[Tensor] = []
        reads: list[Tensor] = []
        num_reads = 0
        for number, row in enumerate(rows):
            tokens[number, : row.length] = row.tokens
            positions[number, : row.length] = row.positions
            ends[number, : row.length] = row.ends
            reads.append(row.reads + number * width)
            picks.append(row.picks + num_reads)
            num_reads += len(row.reads)
        inputs: dict[str, Any] = {"input_ids": tokens.to(self.device), "use_cache": False}
        # Without a prefix above, chains padded on the right need no mask: a causal model never looks at the padding.
        if start or not all(row.is_chain for row in rows):
            positions = positions.to(self.device)
            inputs["position_ids"] = positions
            inputs["attention_mask"] = attention_masks(
                ends.to(self.device), positions, start, windows=self._windows, dtype=self.model.dtype
            )
        if prefix is not None:
            inputs["past_key_values"] = prefix.cache
        hidden_or_logits = self._run(inputs)
        read = torch.cat(reads).to(self.device)
        pick = torch.cat(picks).to(self.device)
        wanted = torch.cat([row.wanted for row in rows]).to(self.device)
        found = hidden_or_logits.flatten(0, 1)[read]
        return self._answers(found, pick, wanted)

    def _answers(self, found: Tensor, pick: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Log-softmax of the wanted tokens at the places that they are read from, some places at a time.

        Args:
            found: hidden states, or logits of a model whose head can't be used apart, shape (reads, ...).
            pick: place of each answer token, shape (answers,).
            wanted: shape (answers,).
        """
        head = self.model.get_output_embeddings() if self._head_apart else None
        vocabulary = found.shape[1] if head is None else head.weight.shape[0]
        step = max(1, _LOGITS // vocabulary)
        values = torch.empty(len(pick), dtype=torch.float32, device=self.device)
        greedy = torch.empty(len(pick), dtype=torch.bool, device=self.device)
        for first in range(0, len(found), step):
            part = found[first : first + step]
            logits = part if head is None else head(part)
            if step >= len(found):
                here: Any = slice(None)
                place, token = pick, wanted
            else:
                here = (pick >= first) & (pick < first + step)
                place, token = pick[here] - first, wanted[here]
            # A model over several devices may have its head on another than its inputs.
            place, token = place.to(logits.device), token.to(logits.device)
            total = torch.logsumexp(logits.float(), dim=1)
            values[here] = (logits[place, token].float() - total[place]).to(self.device)
            greedy[here] = (logits.argmax(dim=1)[place] == token).to(self.device)
        return values, greedy

    def _run(self, inputs: dict[str, Any]) -> Tensor:
        """Last hidden states, or logits if the model does more than apply its head to them."""
        if self._head_apart is None:
            self._head_apart = self._head_is_all(inputs["input_ids"])
        if self._head_apart:
            hidden: Tensor = self.model.base_model(**inputs)[0]
            return hidden
        logits: Tensor = self.model(**inputs).logits
        return logits

    def _head_is_all(self, tokens: Tensor) -> bool:
        """Whether the model's logits are its head on the last hidden states; some models scale or cap them.

        Weights may hide what is done to small numbers, so other numbers of all sizes are put in both places.
        """
        head, body = self.model.get_output_embeddings(), self.model.base_model
        if head is None or body is self.model:
            return False
        given: dict[str, Tensor] = {}

        def replace_hidden(module: Any, inputs: Any, output: Any) -> Any:
            given["hidden"] = _numbers_like(output[0])
            output[next(iter(output))] = given["hidden"]
            return output

        def replace_logits(module: Any, inputs: Any, output: Tensor) -> Tensor:
            given["read"], given["logits"] = inputs[0], _numbers_like(output)
            return given["logits"]

        hooks = [body.register_forward_hook(replace_hidden), head.register_forward_hook(replace_logits)]
        try:
            logits = self.model(input_ids=tokens[:1, :64], use_cache=False).logits
        except REFUSALS:
            return False
        finally:
            for hook in hooks:
                hook.remove()
        if "read" not in given:
            return False
        read, made = given["read"].to(given["hidden"].device), given["logits"].to(logits.device)
        return torch.equal(read, given["hidden"]) and torch.equal(logits, made)


def _numbers_like(tensor: Tensor) -> Tensor:
    """Numbers of both signs and many sizes in a tensor's shape."""
    sizes = torch.linspace(-6.0, 4.0, tensor.numel(), dtype=torch.float64)
    signs = 1.0 - 2.0 * (torch.arange(tensor.numel()) % 2)
    return (signs * 10.0**sizes).reshape(tensor.shape).to(device=tensor.device, dtype=tensor.dtype)


def path_to(plan: Plan, prefix: int | None) -> list[int]:
    """A prefix and those above it, from the top."""
    path = []
    while prefix is not None:
        path.append(prefix)
        prefix = plan.prefixes[prefix].prefix
    return path[::-1]


def log_likelihoods(
    plan: Plan, places: Sequence[int], values: Tensor, greedy: Tensor
) -> dict[int, LogLikelihoodResponse]:
    """Sum the answer tokens of some requests, by position."""
    tokens, certain = values.cpu().double().numpy(), greedy.cpu().numpy()
    found = {}
    for place in places:
        request = plan.requests[place]
        if isinstance(request, LogLikelihoodRequest):
            part = slice(plan.offsets[place], plan.offsets[place] + len(request.continuation))
            found[place] = LogLikelihoodResponse(float(np.sum(tokens[part])), bool(certain[part].all()))
    return found


def _check_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("the time for one candidate is over")
