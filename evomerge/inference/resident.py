"""Answering requests with a live model: what is planned once, and what each candidate costs.

Log-likelihoods are computed on a trie of the requests' tokens (see `plan`), each token once where the model
honours masks, positions and cached keys, which is tried out; logits are formed only where an answer is read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from evomerge.inference.batches import Costs, most_tokens
from evomerge.inference.forward import ForwardPasses, SharedPrefixes, log_likelihoods, path_to
from evomerge.inference.generation import Generator
from evomerge.inference.plan import Plan, cheapest_first, joined, make_plan, work_of
from evomerge.inference.probe import begins_exactly, is_exact
from evomerge.inference.spread import least_free_bytes
from evomerge.inference.trie import FORMS, Form
from evomerge.score.requests import Request, Response

_log = logging.getLogger(__name__)


class ResidentModel:
    """A causal language model that stays loaded while its weights change under it.

    Args:
        model: the live model; its parameters may be rewritten between calls of `respond`.
        tokenizer: of the base, to find stop strings in generated text.
        device: where the model is.
        batch_tokens: padded tokens in a forward pass; None sizes it to the device and its free memory.
        costs: of passes, by which forms and batches are chosen; None: those of the model's sizes there.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: torch.device,
        batch_tokens: int | None = None,
        costs: Costs | None = None,
    ) -> None:
        self._model = model
        device = torch.device(device)
        budget = batch_tokens or affordable_tokens(model, device)
        self._costs = costs or Costs.of(model.config.to_dict(), device.type)
        # Not what memory holds at the moment, which must not decide between forms.
        self._worth = batch_tokens or most_tokens(device.type)
        self._passes = ForwardPasses(model, device=device, budget=budget)
        self._generator = Generator(model, tokenizer, device=device, tokens=budget)

    def plan(
        self, requests: Sequence[Request], *, blocks: Sequence[Sequence[int]] | None = None, form: Form | None = None
    ) -> Plan:
        """Lay out requests, once, in the cheapest form that leaves the model's answers alone.

        Args:
            requests: all of a split.
            blocks: positions of the requests of each block; None: one block of all.
            form: take this form untried; None: try them out on a few requests.

        Raises: CheckpointError for settings of generation that transformers refuses.
        """
        self._generator.check(requests)

        def made(form: Form, generation_prefixes: bool = True) -> Plan:
            return make_plan(
                requests, form, blocks=blocks, attention=self._costs.attention, generation_prefixes=generation_prefixes
            )

        if form is not None:
            return made(form)
        plans = {form: made(form) for form in FORMS}
        if not begins_exactly(self._passes, self._generator, plans["shared"]):
            plans["shared"] = made("shared", generation_prefixes=False)
        tokens = {form: plans[form].tokens[form] for form in FORMS}
        work = {form: work_of(plans[form], self._costs, self._worth) for form in FORMS}
        for name in cheapest_first(work):
            if name == "plain" or is_exact(self._passes, plans[name]):
                _log.info("context is %s; tokens by form: %s, %d with padding", name, tokens, work[name].padded)
                return replace(plans[name], tokens=tokens)
        raise AssertionError("the plain form always works")

    @torch.inference_mode()
    def respond(
        self,
        plan: Plan,
        *,
        blocks: Sequence[int] | None = None,
        prefixes: SharedPrefixes | None = None,
        deadline: float | None = None,
    ) -> list[Response]:
        """Answer the requests of some blocks together, or all, in request order.

        Args:
            plan: from `plan`.
            blocks: numbers of the blocks; None: all of them.
            prefixes: what an earlier block has computed with these very weights; filled for later ones.
            deadline: `time.monotonic()` value after which to give up.

        Raises:
            TimeoutError: the deadline has passed.
            MergeError: the model's outputs aren't finite.
            torch.OutOfMemoryError: not even one row fits.
        """
        part = joined(plan.blocks if blocks is None else [plan.blocks[number] for number in blocks])
        prefixes = prefixes or SharedPrefixes()
        values = torch.zeros(plan.num_answers, dtype=torch.float32, device=self._passes.device)
        greedy = torch.zeros(plan.num_answers, dtype=torch.bool, device=self._passes.device)
        made: dict[int, Response] = {}
        self._passes.compute(plan, part.rows, part.prefixes, prefixes, values, greedy, deadline)
        made |= self._generator.respond(
            part.generations,
            lambda prefix: self._passes.keep_prefixes(plan, path_to(plan, prefix), prefixes),
            deadline=deadline,
        )
        made |= log_likelihoods(plan, part.requests, values, greedy)
        return [made[place] for place in sorted(made)]


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
    return int(max(64, min(most_tokens(device.type), least_free_bytes(model) / 4 // size)))
