"""What a model does between its last hidden states and its logits is kept, whatever the base's weights hide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from evomerge.inference.resident import ResidentModel
from evomerge.score.requests import LogLikelihoodRequest, LogLikelihoodResponse
from evomerge.testing.models import ARCHITECTURES, tiny_model, tiny_tokenizer

SIZES: dict[str, Any] = {
    **{"vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
CHANGED: dict[str, Callable[[], Any]] = {
    "capped": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=30.0)
    ),
    "capped far away": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=1000.0)
    ),
    "scaled by a little": lambda: transformers.GraniteForCausalLM(
        transformers.GraniteConfig(**SIZES, logits_scaling=1.004)
    ),
    "scaled": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**SIZES, logit_scale=0.25)),
}
REQUESTS = [
    LogLikelihoodRequest(tuple(range(5, 30)), (40, 41, 42)),
    LogLikelihoodRequest(tuple(range(5, 30)), (50,)),
    LogLikelihoodRequest((7, 8), (9, 60)),
]


def check_own_logits(model: Any, answers: Any) -> None:
    """Against the log-softmax of what the whole model says."""
    for request, answer in zip(REQUESTS, answers, strict=True):
        assert isinstance(answer, LogLikelihoodResponse)
        tokens = torch.tensor([request.context + request.continuation])
        with torch.no_grad():
            logs = model(tokens).logits[0].double().log_softmax(-1)
        places = range(len(request.context) - 1, tokens.shape[1] - 1)
        expected = sum(float(logs[place, token]) for place, token in zip(places, request.continuation, strict=True))
        assert answer.log_probability == pytest.approx(expected, rel=2e-6, abs=2e-5)


def fill(model: Any, size: float) -> None:
    """Weights under which the logits are small or large."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
            if name.endswith("model.norm.weight"):
                parameter.fill_(size - (1 if "Gemma" in type(model).__name__ else 0))


@pytest.mark.parametrize("name", CHANGED)
def test_caps_and_scales_of_logits_are_found_where_the_base_hides_them(name: str) -> None:
    model = CHANGED[name]().eval()
    engine = ResidentModel(model, tiny_tokenizer(), device=torch.device("cpu"))
    fill(model, 1e-4)
    plan = engine.plan(REQUESTS)
    check_own_logits(model, engine.respond(plan))
    # Later candidates' logits reach the cap.
    for size in (0.5, 8.0, 40.0):
        fill(model, size)
        check_own_logits(model, engine.respond(plan))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_head_that_is_all_is_used_only_where_answers_are_read(architecture: str, dtype: str) -> None:
    model = tiny_model(architecture, dtype=dtype)
    engine = ResidentModel(model, tiny_tokenizer(), device=torch.device("cpu"))
    plan = engine.plan(REQUESTS)
    rows: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, given, made: rows.append(made[..., 0].numel()))
    engine.respond(plan)
    hook.remove()
    assert sum(rows) <= sum(len(request.continuation) for request in REQUESTS)
