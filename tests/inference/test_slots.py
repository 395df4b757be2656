"""Rows in fixed slots are continued with the tokens of rows that grow, and of transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from evomerge.errors import MergeError
from evomerge.inference.masks import attention_masks, step_masks
from evomerge.inference.resident import ResidentModel
from evomerge.inference.slots import BUCKETS, EXACT, Sizes
from evomerge.score.requests import GenerationRequest, GenerationResponse, Request
from evomerge.testing.models import ARCHITECTURES, tiny_model, tiny_tokenizer
from helpers.generation import prompts, sliding_model, unusual_model
from helpers.recorded_graphs import record_graphs

pytestmark = pytest.mark.slow

SIZES = {"exact": EXACT, "buckets": BUCKETS, "late": replace(EXACT, is_late=True)}
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 1.2, "top_p": 0.9}
SETTINGS: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.5},
    "row by row": {"no_repeat_ngram_size": 1, "min_new_tokens": 4},
    "drawn": SAMPLED,
    "drawn, with penalties": {**SAMPLED, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
}


def opened(model: Any, sizes: Sizes, requests: list[Request], *, device: str = "cpu") -> tuple[ResidentModel, Any]:
    engine = ResidentModel(model, tiny_tokenizer(), device=torch.device(device), batch_tokens=500)
    engine._generator.slots.sizes = sizes
    return engine, engine.plan(requests)


def grown(engine: ResidentModel, plan: Any) -> list[Any]:
    """The answers of rows that grow."""
    generator = engine._generator
    assert generator.uses_slots
    generator.uses_slots = False
    answers = engine.respond(plan)
    generator.uses_slots = True
    return answers


def with_settings(requests: list[Request], **settings: Any) -> list[Request]:
    return [replace(one, sampling=tuple(sorted(settings.items()))) for one in requests]  # type: ignore[arg-type]


KINDS = [*ARCHITECTURES, *(f"{name}, sliding" for name in ("mistral", "gemma2", "gemma3"))]


@pytest.mark.parametrize(
    ("kind", "sizes"), [*((kind, "buckets") for kind in KINDS), ("llama", "exact"), ("gemma2, sliding", "late")]
)
def test_every_architecture_makes_the_tokens_of_rows_that_grow_and_of_transformers(kind: str, sizes: str) -> None:
    name, _, slides = kind.partition(", ")
    model = sliding_model(name) if slides else tiny_model(name)
    requests = prompts(shots=60, items=14)
    engine, plan = opened(model, SIZES[sizes], requests)
    expected = grown(engine, plan)
    assert len({answer.text for answer in expected}) > 3
    for rows in (64, 5):
        engine._generator._rows = rows
        engine._generator.slots.release()
        assert engine.respond(plan) == expected
    for place in range(0, len(requests), 9):
        request = requests[place]
        assert isinstance(request, GenerationRequest)
        assert engine._generator._alone(place, request, None) == expected[place]


@pytest.mark.parametrize("sizes", ["exact", "buckets"])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_changes_scores_and_what_draws_follows_its_row(name: str, sizes: str) -> None:
    requests = with_settings(prompts(shots=30, items=12), **SETTINGS[name])
    engine, plan = opened(tiny_model("qwen2", seed=3), SIZES[sizes], requests)
    expected = grown(engine, plan)
    engine._generator._rows = 5
    assert engine.respond(plan) == expected


def test_rows_that_end_early_make_room_and_nothing_is_allocated_anew_for_other_candidates() -> None:
    model = tiny_model("llama")
    # So many ends that texts have all lengths.
    model.generation_config.eos_token_id = list(range(2, 384, 9))
    requests = prompts(shots=40, items=40)
    engine, plan = opened(model, BUCKETS, requests)
    slots = engine._generator.slots
    first = engine.respond(plan)
    assert len({answer.tokens for answer in first if isinstance(answer, GenerationResponse)}) > 3
    assert slots.arena is not None
    pointers = [tensor.data_ptr() for tensor in (*slots.arena.buffers, *model.parameters())]
    weight = model.lm_head.weight
    saved = weight.detach().clone()
    with torch.no_grad():
        weight.neg_()
    other = engine.respond(plan)
    assert other != first
    assert other == grown(engine, plan)
    with torch.no_grad():
        weight.copy_(saved)
    assert engine.respond(plan) == first
    assert [tensor.data_ptr() for tensor in (*slots.arena.buffers, *model.parameters())] == pointers


@pytest.mark.parametrize("sizes", SIZES)
def test_a_candidate_without_finite_answers_leaves_nothing_to_the_next_one(sizes: str) -> None:
    model = tiny_model("llama")
    engine, plan = opened(model, SIZES[sizes], prompts(shots=40, items=20))
    expected = engine.respond(plan)
    weight = model.model.layers[0].self_attn.k_proj.weight
    saved = weight.detach().clone()
    for value in (float("nan"), float("inf")):
        with torch.no_grad():
            weight.fill_(value)
        with pytest.raises(MergeError, match="not finite"):
            engine.respond(plan)
        with torch.no_grad():
            weight.copy_(saved)
        assert engine.respond(plan) == expected


def test_what_was_in_a_slot_before_is_nowhere_in_the_next_rows_sums() -> None:
    engine, plan = opened(tiny_model("llama"), BUCKETS, prompts(shots=40, items=20))
    expected = engine.respond(plan)
    arena = engine._generator.slots.arena
    assert arena is not None
    with torch.inference_mode():
        for buffer in arena.buffers:
            buffer.fill_(float("nan"))
    assert engine.respond(plan) == expected


@pytest.mark.parametrize("kind", ["bloom", "falcon", "mamba", "falcon_h1", "recurrent_gemma", "lfm2"])
def test_models_whose_caches_do_not_fit_are_found_out(kind: str) -> None:
    requests = prompts(shots=20, items=4)
    engine, plan = opened(unusual_model(kind), EXACT, requests)
    assert engine._generator.uses_slots is False
    for place, answer in enumerate(engine.respond(plan)):
        request = requests[place]
        assert isinstance(request, GenerationRequest)
        assert answer == engine._generator._alone(place, request, None)


@pytest.mark.parametrize("what", ["attention_mask", "position_ids"])
def test_a_model_that_ignores_what_it_is_given_is_found_out(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    forward = model.forward

    def careless(*args: Any, **given: Any) -> Any:
        if given["input_ids"].shape[1] == 1 and what in given and given[what] is not None:
            given[what] = None if what == "attention_mask" else torch.zeros_like(given[what])
        return forward(*args, **given)

    monkeypatch.setattr(model, "forward", careless)
    engine, _ = opened(model, EXACT, prompts(shots=20, items=4))
    # Where positions are ignored, rows that grow ignore them as well.
    assert engine._generator.uses_slots is (what == "position_ids")


def test_a_mask_for_one_token_is_the_last_row_of_that_for_all() -> None:
    windows = {"full_attention": None, "sliding_attention": 5}
    width = 9
    ends, order = torch.arange(1, width + 1)[None], torch.arange(width)[None]
    ends = torch.full_like(ends, width)
    whole = attention_masks(ends, order, 0, windows=windows, dtype=torch.float32)
    for position in range(width):
        found = step_masks(torch.tensor([[position], [0]]), width, windows=windows, dtype=torch.float32)
        for kind in windows:
            assert torch.equal(found[kind][0, 0, 0], whole[kind][0, 0, position])
            assert torch.equal(found[kind][1, 0, 0], whole[kind][0, 0, 0])


def test_buckets_are_few_and_waste_little() -> None:
    rows = {number: BUCKETS.rows(number) for number in range(1, 257)}
    columns = {number: BUCKETS.columns(number) for number in range(1, 8193)}
    assert all(number <= rows[number] < max(number + 1, number * 1.5) for number in rows)
    assert all(number <= columns[number] <= number + max(64, number / 8) for number in columns)
    assert len(set(rows.values())) <= 16
    assert len(set(columns.values())) <= 48


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2, sliding"])
def test_a_captured_pass_holds_for_other_tokens_and_other_candidates(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, slides = architecture.partition(", ")
    model = sliding_model(name) if slides else tiny_model(name)
    requests = prompts(shots=40, items=24) + with_settings(prompts(shots=40, items=12), **SAMPLED)
    engine, plan = opened(model, BUCKETS, requests)
    expected = grown(engine, plan)
    slots = engine._generator.slots
    made = record_graphs(monkeypatch)
    slots.graphs.refusal = ""
    assert engine.respond(plan) == expected
    captured, replays = len(made), sum(graph.replays for graph in made)
    assert 1 < captured < replays
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.8)
    other = engine.respond(plan)
    # Rows that end at other times take a few other sizes; those that there were are used again.
    assert len(made) < 2 * captured
    assert sum(graph.replays for graph in made[:captured]) > replays
    assert other != expected
    assert other == grown(engine, plan)
    captured = len(made)
    # Other tensors, not other values.
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().flip(0).clone(), requires_grad=False)
    assert engine.respond(plan) == grown(engine, plan)
    assert len(made) > captured + 1


def test_where_a_pass_cannot_be_captured_it_is_run_and_the_reason_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model("llama")
    engine, plan = opened(model, BUCKETS, prompts(shots=40, items=24))
    expected = grown(engine, plan)
    forward = model.model.forward

    def waits(*args: Any, **given: Any) -> Any:
        assert int(given["position_ids"].max()) >= 0
        return forward(*args, **given)

    monkeypatch.setattr(model.model, "forward", waits)
    record_graphs(monkeypatch)
    slots = engine._generator.slots
    slots.graphs.refusal = ""
    assert engine.respond(plan) == expected
    assert engine.respond(plan) == expected
    assert slots.graphs.refusal == "operation not permitted when stream is capturing"
    assert sum("without CUDA graphs" in record.message for record in caplog.records) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma", "gemma3, sliding"])
def test_a_gpu_replays_graphs_and_makes_the_tokens_of_rows_that_grow(kind: str) -> None:
    name, _, slides = kind.partition(", ")
    model = (sliding_model(name) if slides else tiny_model(name)).to("cuda")
    requests = prompts(shots=60, items=30) + with_settings(prompts(shots=60, items=12), **SAMPLED)
    engine, plan = opened(model, BUCKETS, requests, device="cuda")
    expected = grown(engine, plan)
    for _ in range(2):
        assert engine.respond(plan) == expected
        assert not engine._generator.slots.graphs.refusal
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9)
        expected = grown(engine, plan)
