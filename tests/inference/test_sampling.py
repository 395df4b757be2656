"""Texts that are drawn: rows go together, and each draws the tokens that transformers draws for it alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers
from transformers import LogitsProcessorList

from evomerge.errors import MergeError
from evomerge.inference.batch import Running
from evomerge.inference.choosing import choose, generator_of, seed_of
from evomerge.inference.decoding import Decoding
from evomerge.inference.resident import ResidentModel
from evomerge.score.requests import GenerationRequest, GenerationResponse, Request
from evomerge.testing.models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow

SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "hot": {"temperature": 1.7},
    "likeliest": {"top_k": 5},
    "nucleus": {"top_p": 0.6, "temperature": 1.3},
    "not much less likely": {"min_p": 0.2, "temperature": 1.5},
    "typical": {"typical_p": 0.7},
    "entropy": {"top_h": 0.6},
    "cut off": {"epsilon_cutoff": 0.005, "eta_cutoff": 0.01},
    "several": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
}


def asked(**settings: Any) -> list[Request]:
    """Requests of several lengths that begin alike, some of them equal."""
    draw = random.Random(4)
    head = tuple(draw.randrange(5, 380) for _ in range(40))
    sampling = tuple(sorted({"do_sample": True, **settings}.items()))
    found: list[Request] = [
        GenerationRequest(
            head + tuple(draw.randrange(5, 380) for _ in range(1 + 3 * (number % 5))),
            stop=("e", "an") if number % 3 else (),
            max_tokens=5 + number % 7,
            sampling=sampling,
        )
        for number in range(11)
    ]
    return found + found[:3]


def engine_of(model: Any) -> ResidentModel:
    return ResidentModel(model, tiny_tokenizer(), device=torch.device("cpu"), batch_tokens=400)


@pytest.mark.parametrize("name", SETTINGS)
def test_rows_that_go_together_draw_what_transformers_draws_for_each_alone(name: str) -> None:
    model = tiny_model("qwen2", seed=3)
    requests = asked(**SETTINGS[name])
    engine = engine_of(model)
    plan = engine.plan(requests)
    passes: list[int] = []
    hook = model.register_forward_pre_hook(lambda *_: passes.append(1))
    answers = engine.respond(plan)
    hook.remove()
    assert len(passes) < 3 * len(requests)
    for place, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        assert isinstance(request, GenerationRequest)
        assert answer == engine._generator._alone(place, request, None)
    texts = [answer.text for answer in answers if isinstance(answer, GenerationResponse)]
    assert texts[:3] != texts[-3:]
    # Whoever shares the batch, and whatever is drawn elsewhere.
    torch.manual_seed(1)
    blocks = [list(range(0, len(requests), 2)), list(range(1, len(requests), 2))]
    parts = engine.plan(requests, blocks=blocks)
    engine._generator._rows = 3
    for number, places in enumerate(blocks):
        assert engine.respond(parts, blocks=[number]) == [answers[place] for place in places]


def processors() -> LogitsProcessorList:
    return LogitsProcessorList(
        [
            transformers.RepetitionPenaltyLogitsProcessor(1.3),
            transformers.TemperatureLogitsWarper(0.9),
            transformers.TopKLogitsWarper(900),
            transformers.TopPLogitsWarper(0.95),
            transformers.MinPLogitsWarper(0.001),
        ]
    )


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [4, 2], [3]])
def test_each_row_draws_as_torchs_multinomial_with_its_seed(rows: list[int]) -> None:
    steps, vocabulary = 6, 5000
    logits = 3 * torch.randn((steps, 5, vocabulary), generator=torch.Generator().manual_seed(0))
    seen = torch.randint(0, vocabulary, (5, 9), generator=torch.Generator().manual_seed(1))
    decoding = Decoding(processors=processors(), ends=frozenset(), new_tokens=None, draws=True, is_rowwise=True)
    request = GenerationRequest((1,), (), 4)
    running = [
        Running(place=row, request=request, made=[], processors=processors(), generator=generator_of(row, seen.device))
        for row in rows
    ]
    found = [choose(running, decoding, seen[rows], step[rows]).tokens.tolist() for step in logits]
    for column, row in enumerate(rows):
        expected = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(row))
            for step in logits:
                scores = processors()(seen[row : row + 1], step[row : row + 1])
                expected.append(int(torch.multinomial(scores.softmax(dim=1), num_samples=1)))
        assert [step[column] for step in found] == expected
        assert len(set(expected)) > 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_not_drawn_from(value: float) -> None:
    model = tiny_model("llama")
    engine = engine_of(model)
    plan = engine.plan(asked())
    model.lm_head.weight.data[7, :] = value
    with pytest.raises(MergeError, match="not finite"):
        engine.respond(plan)
