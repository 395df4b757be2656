"""Settings of a config that go by the number of a layer, and what becomes of them in a stack."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from evomerge.errors import CheckpointError
from evomerge.materialise.folder import write_folder
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stack import stack
from evomerge.testing.models import tiny_checkpoint, tiny_family
from helpers.stacks import DEPTH, recipe


def test_layers_of_different_kinds_keep_their_kind(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    family = tiny_family(tmp_path, "qwen2", layers=DEPTH, layer_types=kinds, use_sliding_window=True, sliding_window=4)
    write_folder(recipe(family, ({"a": (1, 3)}, {"b": (3, 3)}), "passthrough"), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["layer_types"] == [kinds[1], kinds[2], kinds[3], kinds[3]]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.layer_types == written["layer_types"]


def test_lists_of_layers_by_number_follow_the_layers(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", layers=DEPTH))
    config = {**checkpoint.config, "mlp_only_layers": [1], "eos_token_id": [1, 2, 3, 4], "layer_scales": [0, 1, 2, 3]}
    model = Checkpoint(
        reference=checkpoint.reference, folder=checkpoint.folder, config=config, tensors=checkpoint.tensors
    )
    base, _ = stack(model, {}, [{"base": (1, 1)}, {"base": (0, 1)}])
    assert base.config["mlp_only_layers"] == [0, 2]
    assert base.config["layer_scales"] == [1, 0, 1]
    assert base.config["eos_token_id"] == [1, 2, 3, 4]


def test_kinds_of_layers_that_follow_from_their_number_are_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", layers=DEPTH))
    for key, value in (("first_k_dense_replace", 1), ("decoder_sparse_step", 2), ("is_encoder_decoder", True)):
        model = Checkpoint(
            reference=checkpoint.reference,
            folder=checkpoint.folder,
            config={**checkpoint.config, key: value},
            tensors=checkpoint.tensors,
        )
        with pytest.raises(CheckpointError, match=r"layers differ by their number|slices would be ambiguous"):
            stack(model, {}, [{"base": (1, 1)}])


def test_a_rule_by_number_is_kept_where_the_stack_follows_it(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", layers=DEPTH))
    model = replace(checkpoint, config={**checkpoint.config, "first_k_dense_replace": 1})
    base, _ = stack(model, {}, [{"base": (0, 2)}, {"base": (1, 3)}])
    assert base.config["first_k_dense_replace"] == 1
    with pytest.raises(
        CheckpointError, match="first_k_dense_replace 1 makes layers differ by their number, and layer 0"
    ):
        stack(model, {}, [{"base": (0, 2)}, {"base": (0, 3)}])


def test_settings_of_layers_that_are_not_understood_are_refused_by_name(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", layers=DEPTH))
    model = replace(checkpoint, config={**checkpoint.config, "num_kv_shared_layers": 2})
    with pytest.raises(CheckpointError, match="num_kv_shared_layers: what it means for single layers isn't known"):
        stack(model, {}, [{"base": (1, 3)}])


def test_a_setting_that_the_architecture_works_out_follows_the_layers(tmp_path: Path) -> None:
    # Without the list in config.json, transformers makes it from the interval.
    checkpoint = Checkpoint.open(tiny_checkpoint(tmp_path / "m", "qwen2", layers=DEPTH))
    config = {"model_type": "smollm3", "num_hidden_layers": DEPTH, "no_rope_layer_interval": 2}
    base, _ = stack(replace(checkpoint, config=config), {}, [{"base": (1, 3)}, {"base": (1, 1)}])
    assert base.config["no_rope_layers"] == [0, 1, 0, 0]
