"""Placing a model over devices: whole layers, tied weights together, no device beyond its room, the load even."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from evomerge.errors import ExecutionError
from evomerge.inference.live import LiveModel
from evomerge.inference.room import gpus_needed, refuse_if_too_large
from evomerge.inference.spread import Stretch, carry, divided, stretches_of
from evomerge.models.checkpoint import Checkpoint

LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "vocab_size": 40}


def outline(kind: str) -> nn.Module:
    with torch.device("meta"):
        if kind == "gpt2":
            return GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=16, n_head=2, n_positions=8, vocab_size=40))
        if kind == "bert":
            return BertForMaskedLM(BertConfig(**LLAMA, num_hidden_layers=3))
        return LlamaForCausalLM(LlamaConfig(**LLAMA, num_hidden_layers=3, tie_word_embeddings=kind == "tied llama"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "llama",
            [
                ("model.embed_tokens", "model.rotary_emb"),
                *((f"model.layers.{number}",) for number in range(3)),
                ("model.norm",),
                ("lm_head",),
            ],
        ),
        (
            "tied llama",
            [
                ("model.embed_tokens", "model.rotary_emb", "lm_head"),
                *((f"model.layers.{number}",) for number in range(3)),
                ("model.norm",),
            ],
        ),
        (
            "gpt2",
            [
                ("transformer.wte", "transformer.wpe", "transformer.drop", "lm_head"),
                *((f"transformer.h.{number}",) for number in range(3)),
                ("transformer.ln_f",),
            ],
        ),
        ("bert", [("bert.embeddings", "cls"), *((f"bert.encoder.layer.{number}",) for number in range(3))]),
    ],
)
def test_layers_are_whole_and_tied_weights_together(kind: str, expected: list[tuple[str, ...]]) -> None:
    model = outline(kind)
    found = stretches_of(model)
    assert [stretch.modules for stretch in found] == expected
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert sum(stretch.size_bytes for stretch in found) == total


def loads(stretches: list[Stretch], places: tuple[int, ...] | list[int], count: int) -> list[int]:
    return [sum(s.size_bytes for s, place in zip(stretches, places, strict=True) if place == n) for n in range(count)]


def test_the_fullest_device_is_as_little_full_as_any_division_in_order_makes_it() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        sizes = generator.integers(1, 50, generator.integers(2, 7)).tolist()
        stretches = [Stretch((str(number),), size) for number, size in enumerate(sizes)]
        rooms = generator.integers(20, 120, 3).tolist()
        shares = [
            max(load / room for load, room in zip(loads(stretches, places, 3), rooms, strict=True))
            for places in itertools.product(range(3), repeat=len(sizes))
            if list(places) == sorted(places)
        ]
        found = divided(stretches, rooms)
        assert (found is None) == (min(shares) > 1.0)
        if found is not None:
            share = max(load / room for load, room in zip(loads(stretches, found, 3), rooms, strict=True))
            assert share == pytest.approx(min(shares), abs=1e-9)


def test_a_model_without_room_is_refused_with_the_number_of_gpus_that_would_do() -> None:
    stretches = [Stretch((f"layers.{number}",), 40_000) for number in range(6)]
    refuse_if_too_large(stretches, [80_000, 160_000], "m")
    assert gpus_needed(stretches, 90_000) == 3
    with pytest.raises(
        ExecutionError, match=r"m: the live model takes 240 kB, .* 2 GPUs .* set execution\.gpus_per_worker: 3"
    ):
        refuse_if_too_large(stretches, [90_000, 90_000], "m")
    with pytest.raises(ExecutionError, match=r"use larger GPUs: layers\.0 alone takes 40\.0 kB"):
        refuse_if_too_large(stretches, [30_000], "m")


def test_it_is_refused_before_anything_is_loaded(tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.inference.room.free_bytes", lambda device: 1000)
    monkeypatch.setattr("evomerge.inference.live._load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ExecutionError, match="a worker's 2 GPUs have room for 950 B"):
        LiveModel.build(Checkpoint.open(tiny_llama["base"]), dtype=torch.float32, devices=["cuda:0", "cuda:1"])


def test_so_is_one_that_the_memory_of_the_machine_cannot_hold(
    tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Checkpoint.open(tiny_llama["base"])
    needed = 4 * base.num_parameters
    for room in (needed, None):
        monkeypatch.setattr("evomerge.inference.room.bytes_with_swap", lambda room=room: room)
        assert LiveModel.build(base, dtype=torch.float32).size_bytes <= needed
    monkeypatch.setattr("evomerge.inference.room.bytes_with_swap", lambda: needed - 1)
    monkeypatch.setattr("evomerge.inference.live._load", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ExecutionError, match=r"base: the live model takes .* are left to this process"):
        LiveModel.build(base, dtype=torch.float32)


def test_carrying_changes_no_output() -> None:
    torch.manual_seed(0)
    plain = LlamaForCausalLM(LlamaConfig(**LLAMA, num_hidden_layers=3)).eval()
    tokens = torch.arange(10)[None]
    with torch.inference_mode():
        expected = plain(tokens, output_hidden_states=True)
        carry(plain, torch.device("cpu"))
        found = plain(tokens, output_hidden_states=True)
    assert torch.equal(found.logits, expected.logits)
    assert all(map(torch.equal, found.hidden_states, expected.hidden_states))
