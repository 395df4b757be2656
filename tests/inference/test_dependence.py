"""Whether a model follows masks, positions and cached keys is told exactly, however little its weights make of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from evomerge.inference.dependence import keeps_branches_apart
from evomerge.inference.forward import ForwardPasses
from evomerge.inference.masks import can_be_told
from evomerge.inference.resident import ResidentModel
from evomerge.score.requests import LogLikelihoodRequest, Request
from evomerge.testing.models import ARCHITECTURES, tiny_model, tiny_tokenizer

TOKENS = torch.arange(20, 30)
SIZES: dict[str, Any] = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def told(model: Any, cached: bool) -> bool | None:
    model.requires_grad_(False).eval()
    with torch.inference_mode():
        passes = ForwardPasses(model, device=torch.device("cpu"), budget=100)
        return keeps_branches_apart(passes, TOKENS, cached=cached)


def hidden_from_answers(model: Any) -> Any:
    """The model with a last norm so small that no answer differs by more than the probe's tolerance."""
    with torch.no_grad():
        model.model.norm.weight.fill_(1e-4)
    return model


def ignoring(model: Any, name: str) -> Any:
    """The model with an argument taken away before its layers see it."""

    def drop(module: Any, given: Any, named: dict[str, Any]) -> Any:
        return given, {key: value for key, value in named.items() if key != name}

    model.model.register_forward_pre_hook(drop, with_kwargs=True)
    return model


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_that_follow_what_they_are_given_are_known_as_such(architecture: str, dtype: str, cached: bool) -> None:
    assert told(tiny_model(architecture, dtype=dtype), cached) is True


@pytest.mark.parametrize(
    ("name", "cached"),
    [("attention_mask", False), ("attention_mask", True), ("position_ids", False), ("past_key_values", True)],
)
def test_an_argument_that_is_ignored_is_found_where_answers_hide_it(name: str, cached: bool) -> None:
    assert told(hidden_from_answers(tiny_model("llama")), cached) is True
    assert told(ignoring(hidden_from_answers(tiny_model("llama")), name), cached) is not True


def test_positions_that_follow_the_columns_are_found() -> None:
    config = transformers.MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=384)
    assert told(transformers.MptForCausalLM(config), False) is False


@pytest.mark.parametrize("name", ["attention_mask", "position_ids"])
def test_such_a_model_answers_each_request_by_itself(name: str) -> None:
    requests: list[Request] = [LogLikelihoodRequest(tuple(range(5, 300)), (30 + number, 40, 50)) for number in range(6)]
    for model, forms in (
        (hidden_from_answers(tiny_model("llama")), {"packed", "shared"}),
        (ignoring(hidden_from_answers(tiny_model("llama")), name), {"plain"}),
    ):
        engine = ResidentModel(model.eval(), tiny_tokenizer(), device=torch.device("cpu"))
        assert engine.plan(requests).form in forms


def test_layers_that_see_neither_all_nor_a_window_are_known_by_the_config() -> None:
    neo = {"num_layers": 2, "num_heads": 4, "vocab_size": 384, "hidden_size": 32}
    assert not can_be_told(transformers.GPTNeoConfig(**neo, attention_types=[[["global", "local"], 1]]))
    assert can_be_told(transformers.GPTNeoConfig(**neo, attention_types=[[["global"], 2]]))
    assert can_be_told(transformers.Gemma2Config(**SIZES))
    assert not can_be_told(transformers.Llama4TextConfig(**SIZES))
    assert not can_be_told(transformers.Qwen3NextConfig(**SIZES))
