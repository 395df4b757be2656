"""Experts that fit a base, and those that are refused with every difference named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.names import match_names
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_family
from helpers.checkpoints import edit_tensors


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_family_is_compatible(tmp_path: Path, architecture: str) -> None:
    models = {name: Checkpoint.open(path) for name, path in tiny_family(tmp_path, architecture).items()}
    base = models.pop("base")
    check_compatible(base, models)
    assert match_names(base, models["a"]) == {name: name for name in base.names}


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"layers": 3}, "has 3 layers, the base has 2"),
        ({"hidden": 16}, r"is 16 wide, the base 32 \(model.embed_tokens.weight\)"),
        ({"vocab_size": 320}, "embedding has 320 tokens, the base's has 384"),
        (
            {"intermediate_size": 48},
            r"shapes differ from the base's: .*down_proj.weight 32×48 \(base 32×64\).* and \d+ more",
        ),
        ({"architecture": "qwen2"}, r"is a Qwen2ForCausalLM \(qwen2\), the base is a LlamaForCausalLM \(llama\)"),
        ({"attention_bias": True}, r"has model.layers.0.self_attn.k_proj.bias, .* and \d more, which the base hasn't"),
    ],
)
def test_each_mismatch_is_found_from_headers_and_named(
    tiny_llama: dict[str, Path], tmp_path: Path, settings_: dict[str, Any], message: str
) -> None:
    base = Checkpoint.open(tiny_llama["base"])
    good, bad = Checkpoint.open(tiny_llama["a"]), Checkpoint.open(tiny_checkpoint(tmp_path / "bad", **settings_))
    with pytest.raises(CheckpointError, match=message) as error:
        check_compatible(base, {"good": good, "bad": bad})
    assert "expert 'bad'" in str(error.value)
    assert "expert 'good'" not in str(error.value)


def test_every_bad_expert_is_named_at_once(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    bad = {
        "deep": Checkpoint.open(tiny_checkpoint(tmp_path / "deep", layers=3)),
        "wide": Checkpoint.open(tiny_checkpoint(tmp_path / "wide", hidden=48)),
    }
    with pytest.raises(CheckpointError, match=r"(?s)expert 'deep'.*expert 'wide'"):
        check_compatible(Checkpoint.open(tiny_llama["base"]), bad)


def test_a_missing_tensor_is_named(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["a"])
    edit_tensors(folder, lambda tensors: tensors.__delitem__("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        check_compatible(Checkpoint.open(tiny_llama["base"]), {"a": Checkpoint.open(folder)})


def test_tokens_numbered_otherwise_are_refused_but_renamed_added_ones_are_not(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    base, folder = Checkpoint.open(tiny_llama["base"]), copy_of(tiny_llama["a"])
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"<unk>"', '"<|im_start|>"'))
    check_compatible(base, {"a": Checkpoint.open(folder)})
    tokenizer = json.loads(text)
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"numbers tokens otherwise than the base's: '[ab]' \d+ \(base \d+\)"):
        check_compatible(base, {"a": Checkpoint.open(folder)})
