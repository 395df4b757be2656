"""Plans hold every answer token once, and no more tokens than the forms promise."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.inference import trie
from evomerge.inference.batches import attention_cost
from evomerge.inference.plan import Plan, count_work, make_plan
from evomerge.inference.trie import FORMS, Row, common
from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest, Request

pytestmark = pytest.mark.slow

CONFIG = {"hidden_size": 512, "intermediate_size": 1536}

tokens = st.integers(0, 2)
texts = st.lists(tokens, min_size=1, max_size=6).map(tuple)
requests = st.lists(
    st.builds(LogLikelihoodRequest, context=texts, continuation=texts)
    | st.builds(GenerationRequest, context=texts, stop=st.just(()), max_tokens=st.just(4)),
    min_size=1,
    max_size=12,
)


def path_to(plan: Plan, row: Row, node: int) -> tuple[int, ...]:
    """The tokens that a node sees: those of the prefixes above its row, then its ancestors and itself."""
    above: tuple[int, ...] = ()
    if row.prefix is not None:
        prefix = plan.prefixes[row.prefix]
        above = path_to(plan, prefix, prefix.length - 1)
    return above + tuple(int(row.tokens[other]) for other in range(node + 1) if row.ends[other] > node)


@settings(max_examples=150, deadline=None)
@given(requests=requests, form=st.sampled_from(FORMS), split=st.booleans())
def test_every_answer_token_is_read_once_after_exactly_the_tokens_before_it(
    requests: list[Request], form: str, split: bool
) -> None:
    # Short texts share prefixes only where a prefix costs nothing and rows are tiny.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie, "ROW_TOKENS", 4)
        patch.setattr(trie, "_PREFIX_COST", 0)
        check_plan(requests, form, split)


def check_plan(requests: list[Request], form: str, split: bool) -> None:
    count = len(requests)
    blocks = [list(range(0, count, 2)), list(range(1, count, 2))] if split else None
    plan = make_plan(requests, form, blocks=blocks)  # type: ignore[arg-type]
    wanted = {}
    for place, request in enumerate(requests):
        if isinstance(request, LogLikelihoodRequest):
            for step, token in enumerate(request.continuation):
                wanted[plan.offsets[place] + step] = (request.context + request.continuation[:step], token)
    found = {}
    used = {prefix for block in plan.blocks for prefix in block.prefixes}
    for row in [row for block in plan.blocks for row in block.rows] + [
        plan.prefixes[number] for number in sorted(used)
    ]:
        assert row.start == (
            0 if row.prefix is None else plan.prefixes[row.prefix].start + plan.prefixes[row.prefix].length
        )
        for pick, token, slot in zip(row.picks.tolist(), row.wanted.tolist(), row.slots.tolist(), strict=True):
            node = int(row.reads[pick])
            path = path_to(plan, row, node)
            assert int(row.positions[node]) == len(path) - 1
            assert slot not in found
            found[slot] = (path, token)
    assert found == wanted
    assert plan.num_answers == len(wanted)
    for block in plan.blocks:
        for place, request, prefix in block.generations:
            assert requests[place] == request
            if prefix is not None:
                above = path_to(plan, plan.prefixes[prefix], plan.prefixes[prefix].length - 1)
                assert request.context[: len(above)] == above
                assert len(request.context) > len(above)


def test_shared_prefixes_leave_about_one_token_for_each_distinct_prefix() -> None:
    torch.manual_seed(0)
    prefix = tuple(torch.randint(0, 500, (600,)).tolist())
    asked: list[Request] = []
    for _ in range(30):
        context = prefix + tuple(torch.randint(0, 500, (40,)).tolist())
        asked += [LogLikelihoodRequest(context, tuple(torch.randint(0, 500, (3,)).tolist())) for _ in range(4)]
    work = count_work(asked, CONFIG)
    found = {form: one.tokens for form, one in work.items()}
    texts = sorted(one.context + one.continuation[:-1] for one in asked)  # type: ignore[union-attr]
    distinct = sum(map(len, texts)) - sum(common(one, other) for one, other in pairwise(texts))
    assert list(found) == ["shared", "packed", "plain"]
    assert found["plain"] == sum(map(len, texts))
    assert distinct <= found["shared"] < 1.05 * distinct
    assert found["packed"] == 30 * 640 + 30 * 4 * 2


def test_nothing_is_shared_where_nothing_would_be_saved() -> None:
    apart: list[Request] = [LogLikelihoodRequest((number, 1, 2), (3,)) for number in range(50)]
    assert len({one.padded for one in count_work(apart, CONFIG).values()}) == 1
    assert make_plan(apart, "shared", attention=attention_cost(CONFIG)).prefixes == ()


def test_the_cost_of_attention_falls_with_the_models_width() -> None:
    small, large = ({"hidden_size": size, "intermediate_size": 4 * size} for size in (128, 4096))
    assert attention_cost(large) < attention_cost(small) < 0.01
    assert attention_cost({"text_config": small}) == attention_cost(small)
    assert attention_cost({}) > 0
