from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from evomerge.errors import CheckpointError
from evomerge.inference.live import LiveModel
from evomerge.inference.placement import _boxes_of, _shrink, _views
from evomerge.models.checkpoint import Checkpoint
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_family

TOKENS = torch.arange(1, 25)[None]


def overwrite(live: LiveModel, model: Checkpoint) -> None:
    for name, target in live.targets.items():
        target.copy_(model.tensor(name))


def assert_same_parameters(one: torch.nn.Module, two: torch.nn.Module) -> None:
    first, second = one.state_dict(), two.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_writing_every_target_turns_the_model_into_the_other(tmp_path: Path, architecture: str, dtype: str) -> None:
    folders = tiny_family(tmp_path, architecture, experts=("a",), dtype=dtype)
    base, expert = (Checkpoint.open(folders[name]) for name in ("base", "a"))
    live = LiveModel.build(base, dtype=base.dtype)
    assert tuple(live.targets) == base.names
    for name, target in live.targets.items():
        assert torch.equal(target, base.tensor(name))
    overwrite(live, expert)
    stock = AutoModelForCausalLM.from_pretrained(folders["a"], dtype=base.dtype)
    assert_same_parameters(live.model, stock)
    assert torch.equal(live.model(TOKENS).logits, stock.eval()(TOKENS).logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_targets_cover_every_parameter_exactly_once(tmp_path: Path, architecture: str) -> None:
    base = Checkpoint.open(tiny_checkpoint(tmp_path / "model", architecture))
    live = LiveModel.build(base, dtype=torch.float32)
    with torch.no_grad():
        for parameter in live.model.parameters():
            parameter.zero_()
        for target in live.targets.values():
            target += 1
    assert all(torch.equal(p, torch.ones_like(p)) for p in live.model.parameters())
    assert sum(target.numel() for target in live.targets.values()) == sum(p.numel() for p in live.model.parameters())
    assert live.size_bytes == base.size_bytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_more_tensors_than_a_dtype_can_count_are_told_apart(tmp_path: Path, dtype: torch.dtype) -> None:
    folders = tiny_family(tmp_path, "mixtral", experts=("a",), layers=16, hidden=8, vocab_size=260)
    base, expert = (Checkpoint.open(folders[name]) for name in ("base", "a"))
    assert len(base.names) > 256
    live = LiveModel.build(base, dtype=dtype)
    overwrite(live, expert)
    assert_same_parameters(live.model, AutoModelForCausalLM.from_pretrained(folders["a"], dtype=dtype))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma", "llama"])
def test_a_tied_head_is_one_storage_with_the_embedding(tmp_path: Path, architecture: str) -> None:
    base = Checkpoint.open(tiny_checkpoint(tmp_path / "model", architecture, tied=True))
    live = LiveModel.build(base, dtype=torch.float32)
    assert base.head is None
    assert base.embedding is not None
    live.targets[base.embedding.name].fill_(0.25)
    head = live.model.get_output_embeddings().weight
    assert head.data_ptr() == live.model.get_input_embeddings().weight.data_ptr()
    assert torch.all(head == 0.25)


def test_writing_never_reaches_the_files(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    base = Checkpoint.open(folder)
    before = hashlib.sha256((folder / "model.safetensors").read_bytes()).digest()
    live = LiveModel.build(base, dtype=torch.float32)
    kept = base.tensor("model.norm.weight").clone()
    for target in live.targets.values():
        target.fill_(7)
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).digest() == before
    assert torch.equal(base.tensor("model.norm.weight"), kept)


@pytest.mark.parametrize(("architecture", "prefix"), [("gpt2", "transformer."), ("llama", "model.")])
def test_names_stored_without_the_base_models_prefix_are_found(tmp_path: Path, architecture: str, prefix: str) -> None:
    folder = tiny_checkpoint(tmp_path / "model", architecture)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    base = Checkpoint.open(folder)
    live = LiveModel.build(base, dtype=torch.float32)
    assert set(live.targets) == set(tensors)


def test_masks_that_old_releases_stored_dont_disturb(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "gpt2")
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 512, 512).tril()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    base = Checkpoint.open(folder)
    assert tuple(LiveModel.build(base, dtype=torch.float32).targets) == base.names


def test_shards_are_one_model(tmp_path: Path) -> None:
    base = Checkpoint.open(tiny_checkpoint(tmp_path / "model", "qwen2", max_shard_size="40KB"))
    assert set(LiveModel.build(base, dtype=torch.float32).targets) == set(base.names)


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.third_proj.weight"] = torch.ones(3, 3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no place for: model\.layers\.0\.mlp\.third_proj\.weight"):
        LiveModel.build(Checkpoint.open(folder), dtype=torch.float32)


def test_a_parameter_that_nothing_fills_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"checkpoint lacks: model\.layers\.1\.mlp\.up_proj\.weight"):
        LiveModel.build(Checkpoint.open(folder), dtype=torch.float32)


def test_weights_that_are_not_numbers_are_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: holds NaN or Inf"):
        LiveModel.build(Checkpoint.open(folder), dtype=torch.float32)


@pytest.mark.parametrize(
    "changes", [{"model_type": "no_such_model"}, {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}]
)
def test_models_that_transformers_doesnt_know_are_refused_and_no_code_of_theirs_is_run(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"can't build model type"):
        LiveModel.build(Checkpoint.open(folder), dtype=torch.float32)
    assert not (tmp_path / "ran").exists()


def test_building_leaves_global_randomness_and_transformers_settings_alone(
    tiny_llama: dict[str, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, verbosity = torch.random.get_rng_state(), logging.get_verbosity()
    # The environment keeps bars off in tests; without its veto they can be switched.
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    for switch, enabled in ((logging.enable_progress_bar, True), (logging.disable_progress_bar, False)):
        switch()
        LiveModel.build(Checkpoint.open(tiny_llama["base"]), dtype=torch.float32)
        assert logging.is_progress_bar_enabled() == enabled
    assert torch.equal(torch.random.get_rng_state(), state)
    assert logging.get_verbosity() == verbosity
    assert capfd.readouterr() == ("", "")


def test_the_live_model_is_ready_for_scoring(tiny_llama: dict[str, Path]) -> None:
    live = LiveModel.build(Checkpoint.open(tiny_llama["base"]), dtype=torch.float32)
    assert not live.model.training
    assert not any(parameter.requires_grad for parameter in live.model.parameters())
    assert not any(target.requires_grad for target in live.targets.values())


def test_interleaved_and_stacked_tensors_are_boxes() -> None:
    code = torch.empty(2, 6, 4)
    for expert in range(2):
        code[expert, 0::2], code[expert, 1::2] = 1 + 2 * expert, 2 + 2 * expert
    small = _shrink(code)
    assert small.shape == (2, 6, 1)
    for number, slices in _boxes_of(small):
        assert slices is not None
        assert code[slices].shape == (1, 3, 4)
        assert torch.all(code[slices] == number)


def test_what_is_no_box_is_said_to_be_none() -> None:
    code = torch.ones(4, 4)
    code[0, 0] = 2
    found = dict(_boxes_of(code))
    assert found[1] is None
    assert found[2] is not None


def test_a_part_is_seen_in_the_stored_shape_by_every_order_that_fits() -> None:
    part = torch.arange(6.0).reshape(1, 2, 3, 1)
    (view,) = _views(part, (3, 1, 2))
    assert torch.equal(view, part[0, :, :, 0].T[:, None])
    assert view.data_ptr() == part.data_ptr()
    assert len(list(_views(torch.zeros(3, 3), (3, 3)))) == 2


def test_an_architecture_that_transformers_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["OursForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"'OursForSequenceClassification', which none of .* auto classes has"):
        LiveModel.build(Checkpoint.open(folder), dtype=torch.float32)
