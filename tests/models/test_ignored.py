"""Tensors that are stored and not read: which they are, and by which rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, EsmConfig, Glm4MoeConfig, GPT2Config, Qwen3NextConfig

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.ignored import COMPUTED, is_computed, left_unread
from evomerge.models.names import match_names
from evomerge.testing.models import tiny_family
from helpers.checkpoints import edit_config, edit_tensors

_SMALL = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("name", "shape", "computed"),
    [
        ("h.0.attn.bias", (1, 1, 64, 64), True),
        ("gpt_neox.layers.3.attention.bias", (1, 1, 64, 64), True),
        ("gpt_neox.layers.3.attention.masked_bias", (), True),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (16,), True),
        ("h.0.attn.c_attn.bias", (96,), False),
        ("decoder.layers.0.attn.bias", (96,), False),
        ("model.layers.0.self_attn.q_proj.weight", (32, 32), False),
    ],
)
def test_masks_and_rotary_tables_are_told_from_weights(name: str, shape: tuple[int, ...], computed: bool) -> None:
    assert is_computed(name, shape) is computed


def test_a_class_leaves_unread_what_it_says_and_has_no_place_for() -> None:
    config = Qwen3NextConfig(num_hidden_layers=2).to_dict()
    names = ["mtp.fc.weight", "mtp.layers.0.mlp.experts.3.up_proj.weight", "model.norm.weight", "surplus.weight"]
    rule = "Qwen3NextForCausalLM leaves ^mtp.* unread"
    assert left_unread(names, config, "Qwen3NextForCausalLM") == dict.fromkeys(names[:2], rule)
    assert left_unread(names, config, "OfAStranger") == dict.fromkeys(names[:2], rule)
    assert left_unread(names, {"model_type": "of_a_stranger"}, "OfAStranger") == {}


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_a_pattern_that_also_fits_weights_leaves_them_read(prefix: str) -> None:
    config = GPT2Config(n_layer=1).to_dict()
    found = left_unread([f"{prefix}h.0.attn.c_attn.bias", f"{prefix}h.0.attn.bias"], config, "GPT2LMHeadModel")
    assert list(found) == [f"{prefix}h.0.attn.bias"]


def test_a_layer_that_another_size_of_the_family_leaves_unread_is_read_where_the_model_has_it() -> None:
    names = [
        "model.layers.46.self_attn.q_proj.weight",
        "model.layers.46.mlp.experts.0.up_proj.weight",  # one of those that transformers stacks
        "model.layers.92.self_attn.q_proj.weight",
    ]
    deep = Glm4MoeConfig(num_hidden_layers=47, n_routed_experts=2, num_key_value_heads=2, **_SMALL)
    flat = Glm4MoeConfig(num_hidden_layers=46, n_routed_experts=2, num_key_value_heads=2, **_SMALL)
    assert list(left_unread(names, deep.to_dict(), "Glm4MoeForCausalLM")) == names[2:]
    assert list(left_unread(names, flat.to_dict(), "Glm4MoeForCausalLM")) == names


def test_buffers_are_unread_where_the_model_computes_them_and_read_where_it_stores_them() -> None:
    bert = BertConfig(num_hidden_layers=1, **_SMALL).to_dict()
    assert left_unread(["bert.embeddings.position_ids"], bert, "BertForMaskedLM") == {
        "bert.embeddings.position_ids": COMPUTED
    }
    esm = EsmConfig(
        num_hidden_layers=1, position_embedding_type="rotary", pad_token_id=1, mask_token_id=2, **_SMALL
    ).to_dict()
    names = ["esm.rotary_embeddings.inv_freq", "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"]
    assert list(left_unread(names, esm, "EsmForMaskedLM")) == names[1:]


def further_layers(folder: Path, number: int = 1) -> None:
    """Give a model of two layers further ones, which its config counts as predicting tokens further ahead."""
    edit_config(folder, num_nextn_predict_layers=number)
    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.2.eh_proj.weight": torch.ones(4, 8)}))


def test_layers_that_the_config_counts_beyond_its_own_may_be_in_one_model_only(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "llama")
    further_layers(folders["base"])
    base, expert = (Checkpoint.open(folders[name]) for name in ("base", "a"))
    assert base.unread == {
        "model.layers.2.eh_proj.weight": "beyond the 2 layers of config.json (num_nextn_predict_layers)"
    }
    for one, other in ((base, expert), (expert, base)):
        check_compatible(one, {"other": other})
        assert match_names(one, other) == {name: name for name in expert.names}


def test_layers_that_no_config_counts_are_refused(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "llama")
    further_layers(folders["base"], number=0)
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.2\.eh_proj\.weight"):
        match_names(Checkpoint.open(folders["base"]), Checkpoint.open(folders["a"]))


def test_a_tied_expert_without_what_is_left_unread_still_ties_its_head(tmp_path: Path, tied: dict[str, Path]) -> None:
    folders = tiny_family(tmp_path, "llama")
    further_layers(folders["base"])
    base = Checkpoint.open(folders["base"])
    names = match_names(base, Checkpoint.open(tied["a"]))
    assert names["lm_head.weight"] == "model.embed_tokens.weight"
    assert set(base.names) - set(names) == {"model.layers.2.eh_proj.weight"}
