"""Every form of computing answers gives the plain one's, on every architecture; what doesn't is not taken."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.inference.forward import SharedPrefixes
from evomerge.inference.plan import Plan
from evomerge.inference.resident import ResidentModel
from evomerge.inference.trie import FORMS
from evomerge.score.requests import (
    GenerationRequest,
    GenerationResponse,
    LogLikelihoodRequest,
    LogLikelihoodResponse,
    Request,
)
from evomerge.testing.models import ARCHITECTURES, tiny_model, tiny_tokenizer
from helpers.generation import prompts, sliding_model, unusual_model

pytestmark = pytest.mark.slow


def questions(*, shots: int = 300, items: int = 12, random_shots: bool = False, seed: int = 0) -> list[Request]:
    """Few-shot questions with four answers each, of very different lengths."""
    draw = random.Random(seed)

    def text(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(5, 380) for _ in range(length))

    prefixes = [text(shots) for _ in range(3 if random_shots else 1)]
    found: list[Request] = []
    for number in range(items):
        context = prefixes[number % len(prefixes)] + text(60 if number % 4 == 0 else 5)
        beginning = text(1)
        found += [LogLikelihoodRequest(context, beginning + text(length)) for length in (0, 1, 3)]
        found.append(LogLikelihoodRequest(context, text(2)))
    # Contexts that end inside the prefix, right at its end, and before anything shared.
    found.append(LogLikelihoodRequest(prefixes[0][:20], prefixes[0][20:24]))
    found.append(LogLikelihoodRequest(prefixes[0], text(1)))
    found.append(LogLikelihoodRequest((7,), text(3)))
    return found


def resident(model: Any, **settings: Any) -> ResidentModel:
    return ResidentModel(model, tiny_tokenizer(), device=torch.device("cpu"), **settings)


def check_alike(one: list[Any], other: list[Any], tolerance: float = 1e-4) -> None:
    assert len(one) == len(other)
    for answer, reference in zip(one, other, strict=True):
        if isinstance(reference, LogLikelihoodResponse):
            assert answer.log_probability == pytest.approx(reference.log_probability, abs=tolerance)
            assert answer.is_greedy == reference.is_greedy
        else:
            assert answer == reference


@pytest.mark.parametrize("random_shots", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prefixes_shared_by_questions_are_computed_once_and_change_no_answer(
    architecture: str, random_shots: bool
) -> None:
    requests = questions(random_shots=random_shots)
    engine = resident(tiny_model(architecture), batch_tokens=700)
    plan = engine.plan(requests)
    assert plan.form == "shared"
    assert plan.prefixes or random_shots
    assert plan.tokens["shared"] < plan.tokens["packed"] / 3 < plan.tokens["plain"] / 9
    check_alike(engine.respond(plan), engine.respond(engine.plan(requests, form="plain")))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_that_share_a_head_are_continued_as_by_transformers(architecture: str) -> None:
    model = tiny_model(architecture)
    requests = prompts()
    engine = resident(model)
    plan = engine.plan(requests)
    assert plan.form == "shared"
    assert plan.tokens["shared"] < plan.tokens["plain"] / 5
    got = engine.respond(plan)
    assert len({answer.text for answer in got if isinstance(answer, GenerationResponse)}) > 3
    alone = engine._generator
    for request, answer in list(zip(requests, got, strict=True))[::5]:
        assert isinstance(request, GenerationRequest)
        assert answer == alone._alone(0, request, None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_prefixes_in_16_bit_agree_within_the_stated_tolerance(dtype: str) -> None:
    requests = questions()
    engine = resident(tiny_model("llama", dtype=dtype))
    plan = engine.plan(requests)
    assert plan.form == "shared"
    plain = engine.respond(engine.plan(requests, form="plain"))
    for answer, reference in zip(engine.respond(plan), plain, strict=True):
        assert isinstance(answer, LogLikelihoodResponse)
        assert isinstance(reference, LogLikelihoodResponse)
        assert answer.log_probability == pytest.approx(reference.log_probability, abs=0.06)


@pytest.mark.parametrize("shots", [30, 300])
@pytest.mark.parametrize("kind", ["mistral", "gemma3", "gemma2", "qwen2"])
def test_sliding_windows_are_kept_to(kind: str, shots: int) -> None:
    engine = resident(sliding_model(kind))
    requests = questions(shots=shots) + prompts(shots=shots, items=10)
    plan = engine.plan(requests)
    assert plan.form == "shared"
    assert all(prefix is None for block in plan.blocks for _, _, prefix in block.generations)
    plain = engine.respond(engine.plan(requests, form="plain"))
    check_alike(engine.respond(plan), plain)
    for request, answer in list(zip(requests, plain, strict=True))[-10:]:
        assert isinstance(request, GenerationRequest)
        assert answer == engine._generator._alone(0, request, None)


@pytest.mark.parametrize("kind", ["bloom", "falcon", "mamba", "falcon_h1", "recurrent_gemma", "lfm2"])
def test_models_that_cannot_share_are_found_out_and_answered_one_by_one(kind: str) -> None:
    model = unusual_model(kind)
    engine = resident(model)
    requests = questions(items=6) + prompts(items=4)
    plan = engine.plan(requests)
    for request, answer in zip(requests, engine.respond(plan), strict=True):
        if isinstance(request, LogLikelihoodRequest):
            tokens = torch.tensor([request.context + request.continuation])
            with torch.inference_mode():
                logits = model(tokens, use_cache=False).logits[0, len(request.context) - 1 : -1].log_softmax(1)
            expected = float(logits.gather(1, torch.tensor(request.continuation)[:, None]).sum())
            assert isinstance(answer, LogLikelihoodResponse)
            assert answer.log_probability == pytest.approx(expected, abs=2e-4)
        else:
            assert answer == engine._generator._alone(0, request, None)


def test_blocks_answered_apart_give_the_same_bytes_with_and_without_what_earlier_ones_kept() -> None:
    requests = questions() + prompts(items=10)
    engine = resident(tiny_model("llama"))
    order = list(range(len(requests)))
    random.Random(1).shuffle(order)
    blocks = [order[:20], order[20:45], order[45:]]
    plan = engine.plan(requests, blocks=blocks)
    assert plan.prefixes
    prefixes = SharedPrefixes()
    together = [engine.respond(plan, blocks=[number], prefixes=prefixes) for number in range(3)]
    apart = [engine.respond(plan, blocks=[number]) for number in (2, 0, 1)]
    assert together == [apart[1], apart[2], apart[0]]
    everything = engine.respond(plan)
    for block, answers in zip(blocks, together, strict=True):
        check_alike(answers, [everything[place] for place in sorted(block)], tolerance=1e-5)
    two = engine.respond(plan, blocks=[2, 0])
    check_alike(two, [everything[place] for place in sorted([*blocks[2], *blocks[0]])], tolerance=1e-5)


def test_blocks_answered_together_take_about_the_passes_of_one_block_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = questions() + prompts(items=10)
    engine = resident(tiny_model("llama"))
    passes: list[int] = []
    forward = engine._model.forward

    def counted(*given: Any, **named: Any) -> Any:
        passes.append(1)
        return forward(*given, **named)

    monkeypatch.setattr(engine._model, "forward", counted)

    def taken(plan: Plan, blocks: Sequence[int] | None) -> int:
        passes.clear()
        engine.respond(plan, blocks=blocks)
        return len(passes)

    order = list(range(len(requests)))
    random.Random(1).shuffle(order)
    for form in FORMS:
        apart = engine.plan(requests, blocks=[order[start : start + 6] for start in range(0, len(order), 6)], form=form)
        numbers = range(len(apart.blocks))
        together = taken(apart, numbers)
        # Each block fills its own rows, so there may be a row more.
        assert together <= taken(engine.plan(requests, form=form), None) + 1
        assert sum(taken(apart, [number]) for number in numbers) > 2 * together


def test_running_out_of_memory_halves_the_batches_and_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = questions() + prompts(items=20)
    model = tiny_model("llama")
    engine = resident(model)
    plan = engine.plan(requests)
    expected = engine.respond(plan)
    budget = engine._passes.budget
    forward = model.model.forward
    sizes: list[int] = []

    def limited(*args: Any, **settings: Any) -> Any:
        rows, width = settings["input_ids"].shape
        sizes.append(rows * width)
        if rows > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(*args, **settings)

    monkeypatch.setattr(model.model, "forward", limited)
    check_alike(engine.respond(plan), expected)
    assert engine._passes.budget < budget
    assert engine._generator._rows <= 4
    before = len(sizes)
    check_alike(engine.respond(plan), expected)
    assert len(sizes) - before < before


def test_one_row_that_does_not_fit_is_the_callers_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    engine = resident(model)
    plan = engine.plan(questions())

    def refuse(*args: Any, **settings: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.model, "forward", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        engine.respond(plan)


@pytest.mark.parametrize("sampling", [(), (("do_sample", True), ("temperature", 0.7))])
def test_generation_that_never_ends_keeps_to_the_time_limit(sampling: Any) -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = None
    engine = resident(model)
    plan = engine.plan([GenerationRequest((1, 5), stop=(), max_tokens=100_000, sampling=sampling)])
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        engine.respond(plan, deadline=start + 0.3)
    # All of it would take many minutes.
    assert time.monotonic() - start < 60


def test_sampled_texts_depend_on_the_request_alone() -> None:
    sampling = (("do_sample", True), ("temperature", 1.5))
    requests: list[Request] = [GenerationRequest((1, 5), stop=(), max_tokens=8, sampling=sampling) for _ in range(2)]
    engine = resident(tiny_model("llama"))
    first = engine.respond(engine.plan(requests))
    torch.manual_seed(5)
    assert engine.respond(engine.plan(requests)) == first
    assert first[0] != first[1]


def test_every_form_is_one_that_can_be_asked_for(tmp_path: Path) -> None:
    engine = resident(tiny_model("llama"))
    requests = questions(items=3)
    for form in FORMS:
        plan = engine.plan(requests, form=form)
        assert plan.form == form
        check_alike(engine.respond(plan), engine.respond(engine.plan(requests, form="plain")))
