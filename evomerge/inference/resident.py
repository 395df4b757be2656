"""Answering requests with a live model: what is planned once, and what each candidate costs.

Log-likelihoods are computed on a trie of the requests' tokens (see `plan`), each token once where the model
honours masks, positions and cached keys, which is tried out; logits are formed only where an answer is read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.inference.cache import Kept
from evomerge.inference.generation import Generator
from evomerge.inference.memory import free_bytes, is_out_of_memory
from evomerge.inference.plan import Plan, attention_cost, make_plan
from evomerge.inference.trie import FORMS, Form, Row
from evomerge.score.requests import LogLikelihoodRequest, LogLikelihoodResponse, Request, Response

_log = logging.getLogger(__name__)

BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}
"""Most padded tokens in a forward pass when nothing is said; less where memory is short."""

# Logits of so many entries at a time, so that memory doesn't grow with the vocabulary.
_LOGITS = 1 << 25
# In float32 all forms agree to about 1e-5; a model that ignores the mask is off by whole nats.
_AGREEMENT = 1e-3
_PROBED_ANSWERS = 12
_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError)


class Heads:
    """What one set of weights makes of a plan's heads. Make a new one whenever the weights change."""

    def __init__(self) -> None:
        self.kept: dict[int, Kept] = {}
        self.values: dict[int, tuple[Tensor, Tensor]] = {}


class ResidentModel:
    """A causal language model that stays loaded while its weights change under it.

    Args:
        model: the live model; its parameters may be rewritten between calls of `respond`.
        tokenizer: of the base, to find stop strings in generated text.
        device: where the model is.
        batch_tokens: padded tokens in a forward pass; None sizes it to the device and its free memory.
    """

    def __init__(self, model: Any, tokenizer: Any, *, device: torch.device, batch_tokens: int | None = None) -> None:
        self._model = model
        self._device = torch.device(device)
        self._budget = batch_tokens or affordable_tokens(model, self._device)
        self._generator = Generator(model, tokenizer, device=self._device, tokens=self._budget)
        self._head_apart: bool | None = None
        self._windows = _windows(model.config)

    def plan(
        self, requests: Sequence[Request], *, blocks: Sequence[Sequence[int]] | None = None, form: Form | None = None
    ) -> Plan:
        """Lay out requests, once, in the form with the fewest tokens that leaves the model's answers alone.

        Args:
            requests: all of a split.
            blocks: positions of the requests of each block; None: one block of all.
            form: take this form untried; None: try them out on a few requests.
        """
        attention = attention_cost(self._model.config.to_dict())

        def made(form: Form, generation_heads: bool = True) -> Plan:
            return make_plan(requests, form, blocks=blocks, attention=attention, generation_heads=generation_heads)

        if form is not None:
            return made(form)
        plans = {form: made(form) for form in FORMS}
        if not self._begins_exactly(plans["shared"]):
            plans["shared"] = made("shared", generation_heads=False)
        tokens = {form: plans[form].tokens[form] for form in FORMS}
        for name in sorted(FORMS, key=lambda name: (tokens[name], -FORMS.index(name))):
            if name == "plain" or self._is_exact(plans[name]):
                _log.info("context is %s; tokens by form: %s", name, tokens)
                return replace(plans[name], tokens=tokens)
        raise AssertionError("the plain form always works")

    @torch.inference_mode()
    def respond(
        self, plan: Plan, *, block: int | None = None, heads: Heads | None = None, deadline: float | None = None
    ) -> list[Response]:
        """Answer the requests of a block, or of all, in request order.

        Args:
            plan: from `plan`.
            block: number of the block; None: all of them.
            heads: what an earlier block has computed with these very weights; filled for later ones.
            deadline: `time.monotonic()` value after which to give up.

        Raises:
            TimeoutError: the deadline has passed.
            MergeError: the model's outputs aren't finite.
            torch.OutOfMemoryError: not even one row fits.
        """
        chosen = plan.blocks if block is None else plan.blocks[block : block + 1]
        heads = heads or Heads()
        values = torch.zeros(plan.num_answers, dtype=torch.float32, device=self._device)
        greedy = torch.zeros(plan.num_answers, dtype=torch.bool, device=self._device)
        made: dict[int, Response] = {}
        for part in chosen:
            self._compute(plan, part.rows, part.heads, heads, values, greedy, deadline)
            made |= self._generator.respond(
                part.generations, lambda head: self._keep_heads(plan, _path(plan, head), heads), deadline=deadline
            )
        made |= _log_likelihoods(plan, [place for part in chosen for place in part.requests], values, greedy)
        return [made[place] for place in sorted(made)]

    def _compute(
        self,
        plan: Plan,
        rows: Sequence[Row],
        needed: Sequence[int],
        heads: Heads,
        values: Tensor,
        greedy: Tensor,
        deadline: float | None,
    ) -> None:
        """Fill in the answer tokens of rows and of the heads that they need."""
        open_path: list[int] = []
        for head, batch in self._batches(plan, rows, needed):
            _check_time(deadline)
            path = _path(plan, head)
            if path != open_path:
                for number in open_path:
                    # Rows come by head in depth-first order, so what isn't above this one isn't needed again here.
                    if number not in path and not self._may_keep(heads):
                        heads.kept.pop(number, None)
                open_path = path
            below = self._keep_heads(plan, path, heads)
            if batch:
                self._score_rows(batch, below, values, greedy)
        for number in needed:
            for answers, target in zip(heads.values[number], (values, greedy), strict=True):
                target[plan.heads[number].slots.to(self._device)] = answers

    def _batches(
        self, plan: Plan, rows: Sequence[Row], needed: Sequence[int]
    ) -> Iterator[tuple[int | None, list[Row]]]:
        """Rows below the same head, longest first, of at most the budget's padded tokens a batch."""
        by_head: dict[int | None, list[Row]] = {None: [], **{number: [] for number in needed}}
        for row in rows:
            by_head[row.head].append(row)
        for head, below in by_head.items():
            start = 0
            if not below and head is not None:
                yield head, []
            while start < len(below):
                count = max(1, self._budget // below[start].length)
                yield head, below[start : start + count]
                start += count

    def _keep_heads(self, plan: Plan, path: Sequence[int], heads: Heads) -> Kept | None:
        """Keys and values of the last head of a path, computed from its parents' where they aren't at hand."""
        below: Kept | None = None
        for number in path:
            if number not in heads.kept:
                row = plan.heads[number]
                kept = Kept() if below is None else below.copy()
                heads.values[number] = self._forward([row], kept)
                heads.kept[number] = kept
            below = heads.kept[number]
        return below

    def _may_keep(self, heads: Heads) -> bool:
        """Whether there is room for the heads at hand and more, for later blocks."""
        return sum(kept.size_bytes for kept in heads.kept.values()) < free_bytes(self._device) / 4

    def _score_rows(self, rows: Sequence[Row], below: Kept | None, values: Tensor, greedy: Tensor) -> None:
        """Fill in the answers of some rows; on running out of memory, of each half by itself."""
        try:
            found = self._forward(rows, None if below is None else below.below(len(rows)))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(rows) == 1:
                raise
            self._budget = max(1, self._budget // 2)
        else:
            slots = torch.cat([row.slots for row in rows]).to(self._device)
            values[slots], greedy[slots] = found
            return
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(rows) // 2
        self._score_rows(rows[:half], below, values, greedy)
        self._score_rows(rows[half:], below, values, greedy)

    def _forward(self, rows: Sequence[Row], kept: Kept | None) -> tuple[Tensor, Tensor]:
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
        inputs: dict[str, Any] = {"input_ids": tokens.to(self._device), "use_cache": False}
        # Without a head above, chains padded on the right need no mask: a causal model never looks at the padding.
        if start or not all(row.is_chain for row in rows):
            positions = positions.to(self._device)
            inputs["position_ids"] = positions
            inputs["attention_mask"] = self._masks(ends.to(self._device), positions, start)
        if kept is not None:
            inputs["past_key_values"] = kept.cache
        hidden_or_logits = self._run(inputs)
        read = torch.cat(reads).to(self._device)
        pick = torch.cat(picks).to(self._device)
        wanted = torch.cat([row.wanted for row in rows]).to(self._device)
        found = hidden_or_logits.flatten(0, 1)[read]
        return self._answers(found, pick, wanted)

    def _answers(self, found: Tensor, pick: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Log-softmax of the wanted tokens at the places that they are read from, some places at a time.

        Args:
            found: hidden states, or logits of a model whose head can't be used apart, shape (reads, ...).
            pick: place of each answer token, shape (answers,).
            wanted: shape (answers,).
        """
        head = self._model.get_output_embeddings() if self._head_apart else None
        vocabulary = found.shape[1] if head is None else head.weight.shape[0]
        step = max(1, _LOGITS // vocabulary)
        values = torch.empty(len(pick), dtype=torch.float32, device=self._device)
        greedy = torch.empty(len(pick), dtype=torch.bool, device=self._device)
        for first in range(0, len(found), step):
            part = found[first : first + step]
            logits = part if head is None else head(part)
            if step >= len(found):
                here: Any = slice(None)
                place, token = pick, wanted
            else:
                here = (pick >= first) & (pick < first + step)
                place, token = pick[here] - first, wanted[here]
            total = torch.logsumexp(logits.float(), dim=1)
            values[here] = logits[place, token].float() - total[place]
            greedy[here] = logits.argmax(dim=1)[place] == token
        return values, greedy

    def _masks(self, ends: Tensor, positions: Tensor, start: int) -> Any:
        """Additive attention masks (rows, 1, width, start + width); by layer type where a model has several.

        Args:
            ends: reach of each node, shape (rows, width).
            positions: depth of each node, shape (rows, width).
            start: columns of the head before the nodes' own.
        """
        rows, width = ends.shape
        order = torch.arange(width, device=self._device)
        seen = (order[None, :, None] >= order[None, None, :]) & (order[None, :, None] < ends[:, None, :])
        if start:
            seen = torch.cat([seen.new_ones((rows, width, start)), seen], dim=2)
        columns = torch.cat([torch.arange(start, device=self._device).expand(rows, start), positions], dim=1)
        masks = {}
        for kind, window in self._windows.items():
            allowed = seen
            if window is not None and int(positions.max()) >= window:
                allowed = seen & (positions[:, :, None] - columns[:, None, :] < window)
            mask = torch.zeros(allowed.shape, dtype=self._model.dtype, device=self._device)
            masks[kind] = mask.masked_fill_(~allowed, torch.finfo(self._model.dtype).min)[:, None]
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _run(self, inputs: dict[str, Any]) -> Tensor:
        """Last hidden states, or logits if the model does more than apply its head to them."""
        if self._head_apart is None:
            self._head_apart = self._head_is_all(inputs["input_ids"])
        if self._head_apart:
            hidden: Tensor = self._model.base_model(**inputs)[0]
            return hidden
        logits: Tensor = self._model(**inputs).logits
        return logits

    def _head_is_all(self, tokens: Tensor) -> bool:
        """Whether the model's logits are its head on the last hidden states; some models scale or cap them."""
        head = self._model.get_output_embeddings()
        if head is None or self._model.base_model is self._model:
            return False
        few = tokens[:1, :64]
        try:
            apart = head(self._model.base_model(input_ids=few, use_cache=False)[0]).float()
        except _REFUSALS:
            return False
        whole = self._model(input_ids=few, use_cache=False).logits.float()
        return bool(torch.allclose(apart, whole, rtol=1e-2, atol=1e-2 * float(whole.abs().max())))

    @torch.inference_mode()
    def _is_exact(self, plan: Plan) -> bool:
        """Try a form on a few rows, the longest among them: exact only if the model honours what it is given."""
        rows = [row for block in plan.blocks for row in block.rows]
        if not rows:
            return True
        deepest = max(rows, key=lambda row: (row.start, row.length))
        branching = [row for row in rows if not row.is_chain] or rows
        probes = {id(row): row for row in (min(branching, key=lambda row: row.length), deepest, max(rows, key=_reach))}
        places = {slot: place for place, slot in enumerate(plan.offsets) if _is_asked(plan, place)}
        for row in probes.values():
            asked = [places[slot] for slot in row.slots.tolist() if slot in places][:_PROBED_ANSWERS]
            alone = make_plan([plan.requests[place] for place in asked], "plain")
            plain = self._alone(alone)
            values = torch.zeros(plan.num_answers, device=self._device)
            greedy = torch.zeros(plan.num_answers, dtype=torch.bool, device=self._device)
            needed = _path(plan, row.head)
            try:
                self._compute(plan, [row], needed, Heads(), values, greedy, None)
            except torch.OutOfMemoryError:
                raise
            except _REFUSALS as error:
                _log.debug("form %s is refused by the model: %s", plan.form, error)
                return False
            found = _log_likelihoods(plan, asked, values, greedy)
            for place, expected in zip(asked, plain, strict=True):
                one, other = found[place].log_probability, expected.log_probability
                tolerance = _AGREEMENT if self._model.dtype == torch.float32 else 0.5
                if not abs(one - other) <= tolerance * max(1.0, abs(other) / 10):
                    return False
        return True

    @torch.inference_mode()
    def _begins_exactly(self, plan: Plan) -> bool:
        """Try a generation's head on the first token of the longest context below it."""
        tasks = [task for block in plan.blocks for task in block.generations if task[2] is not None]
        if not tasks:
            return True
        if not self._generator.shares_heads:
            return False
        task = max(tasks, key=lambda task: len(task[1].context))
        try:
            kept = self._keep_heads(plan, _path(plan, task[2]), Heads())
            assert kept is not None
            difference = self._generator.begins_alike(task, kept)
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS as error:
            _log.debug("shared heads are refused by the model in generation: %s", error)
            return False
        return difference <= (_AGREEMENT if self._model.dtype == torch.float32 else 0.5)

    def _alone(self, plan: Plan) -> list[LogLikelihoodResponse]:
        """Answers of requests one by one."""
        values = torch.zeros(plan.num_answers, device=self._device)
        greedy = torch.zeros(plan.num_answers, dtype=torch.bool, device=self._device)
        for row in plan.blocks[0].rows:
            self._score_rows([row], None, values, greedy)
        found = _log_likelihoods(plan, range(len(plan.requests)), values, greedy)
        return [found[place] for place in sorted(found)]


def affordable_tokens(model: Any, device: torch.device) -> int:
    """Padded tokens of a forward pass that a quarter of the free memory holds, up to what is worth while.

    Args:
        model: the live model.
        device: where it is.
    """
    config = getattr(model.config, "text_config", None) or model.config
    hidden = getattr(config, "hidden_size", 512)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    # One layer's activations live at a time: states, projections, both branches of the MLP, a row of the mask.
    size = (8 * hidden + 3 * inner + 2048) * torch.finfo(model.dtype).bits // 8
    most = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cuda"])
    return int(max(64, min(most, free_bytes(device) / 4 // size)))


def _windows(config: Any) -> dict[str, int | None]:
    """How far each kind of layer looks back, as transformers names the kinds; None is all the way."""
    config = getattr(config, "text_config", None) or config
    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if not kinds or getattr(config, "use_sliding_window", True) is False:
        kinds = ["sliding_attention" if window and not kinds else "full_attention"]
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


def _path(plan: Plan, head: int | None) -> list[int]:
    """A head and those above it, from the top."""
    path = []
    while head is not None:
        path.append(head)
        head = plan.heads[head].head
    return path[::-1]


def _reach(row: Row) -> int:
    return row.start + row.length


def _is_asked(plan: Plan, place: int) -> bool:
    return isinstance(plan.requests[place], LogLikelihoodRequest)


def _log_likelihoods(
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
