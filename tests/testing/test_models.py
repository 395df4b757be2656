from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_family, tiny_tokenizer


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_loads_with_a_tokenizer_that_fits_its_embedding(tmp_path: Path, architecture: str) -> None:
    folder = tiny_checkpoint(tmp_path / "model", architecture)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    ids = tokenizer("Watoto wanasoma ẹ̀kọ́.", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == "Watoto wanasoma ẹ̀kọ́."
    assert model(ids).logits.std() > 0.1


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_weights(tmp_path: Path) -> None:
    first, again, other = (
        digest(tiny_checkpoint(tmp_path / name, seed=seed)) for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]
    assert first["tokenizer.json"] == other["tokenizer.json"]


def test_a_familys_experts_differ_from_the_base_and_from_each_other_in_every_tensor(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "qwen2", experts=("x", "y"), max_shard_size="50KB")
    assert len(list(folders["x"].glob("*.safetensors"))) > 1
    states = {name: AutoModelForCausalLM.from_pretrained(folder).state_dict() for name, folder in folders.items()}
    for name, tensor in states["base"].items():
        for one, two in (
            (tensor, states["x"][name]),
            (tensor, states["y"][name]),
            (states["x"][name], states["y"][name]),
        ):
            assert 0 < (one - two).abs().max() < 0.2


def test_making_a_model_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    tiny_checkpoint(tmp_path / "model")
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_chat_template_writes_roles() -> None:
    text = tiny_tokenizer().apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == "<s>user: hi</s>"
