"""Trying out on the live model which ways of sharing context leave its answers alone.

A model may ignore positions or masks that it is given. Its gradients show that, whatever its weights are; a few of
its answers, one by one and shared, show what else there may be.
"""

from __future__ import annotations

import logging

import torch

from evomerge.inference.dependence import keeps_branches_apart
from evomerge.inference.forward import REFUSALS, ForwardPasses, SharedPrefixes, agreement, log_likelihoods, path_to
from evomerge.inference.generation import Generator
from evomerge.inference.masks import can_be_told
from evomerge.inference.plan import Plan, make_plan
from evomerge.inference.trie import Row
from evomerge.score.requests import LogLikelihoodRequest, LogLikelihoodResponse

_log = logging.getLogger(__name__)

_PROBED_ANSWERS = 12


@torch.inference_mode()
def is_exact(passes: ForwardPasses, plan: Plan) -> bool:
    """Try a form on a few rows, the longest among them: exact only if the model honours what it is given."""
    rows = [row for block in plan.blocks for row in block.rows]
    if not rows:
        return True
    if not can_be_told(passes.model.config):
        return False
    tokens = torch.cat([row.tokens for row in rows])[:10]
    if len(tokens) == 10:
        for cached in (False, True) if plan.form == "shared" else (False,):
            if keeps_branches_apart(passes, tokens, cached=cached) is False:
                _log.debug("form %s: branches aren't kept apart, or positions ignored", plan.form)
                return False
    deepest = max(rows, key=lambda row: (row.start, row.length))
    branching = [row for row in rows if not row.is_chain] or rows
    probes = {id(row): row for row in (min(branching, key=lambda row: row.length), deepest, max(rows, key=_reach))}
    places = {slot: place for place, slot in enumerate(plan.offsets) if _is_asked(plan, place)}
    for row in probes.values():
        asked = [places[slot] for slot in row.slots.tolist() if slot in places][:_PROBED_ANSWERS]
        alone = make_plan([plan.requests[place] for place in asked], "plain")
        plain = _alone(passes, alone)
        values = torch.zeros(plan.num_answers, device=passes.device)
        greedy = torch.zeros(plan.num_answers, dtype=torch.bool, device=passes.device)
        needed = path_to(plan, row.prefix)
        try:
            passes.compute(plan, [row], needed, SharedPrefixes(), values, greedy, None)
        except torch.OutOfMemoryError:
            raise
        except REFUSALS as error:
            _log.debug("form %s is refused by the model: %s", plan.form, error)
            return False
        found = log_likelihoods(plan, asked, values, greedy)
        for place, expected in zip(asked, plain, strict=True):
            one, other = found[place].log_probability, expected.log_probability
            # What a model follows is told by gradients; this finds what they don't see.
            if not abs(one - other) <= agreement(passes.model.dtype) * max(1.0, abs(other) / 10):
                return False
    return True


@torch.inference_mode()
def begins_exactly(passes: ForwardPasses, generator: Generator, plan: Plan) -> bool:
    """Try a generation's prefix on the first token of the longest context below it."""
    tasks = [task for block in plan.blocks for task in block.generations if task[2] is not None]
    if not tasks:
        return True
    if not generator.shares_prefixes:
        return False
    task = max(tasks, key=lambda task: len(task[1].context))
    try:
        prefix = passes.keep_prefixes(plan, path_to(plan, task[2]), SharedPrefixes())
        assert prefix is not None
        difference = generator.begins_alike(task, prefix)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        _log.debug("shared prefixes are refused by the model in generation: %s", error)
        return False
    return difference <= agreement(passes.model.dtype)


def _alone(passes: ForwardPasses, plan: Plan) -> list[LogLikelihoodResponse]:
    """Answers of requests one by one."""
    values = torch.zeros(plan.num_answers, device=passes.device)
    greedy = torch.zeros(plan.num_answers, dtype=torch.bool, device=passes.device)
    for row in plan.blocks[0].rows:
        passes.score_rows([row], None, values, greedy)
    found = log_likelihoods(plan, range(len(plan.requests)), values, greedy)
    return [found[place] for place in sorted(found)]


def _reach(row: Row) -> int:
    return row.start + row.length


def _is_asked(plan: Plan, place: int) -> bool:
    return isinstance(plan.requests[place], LogLikelihoodRequest)
