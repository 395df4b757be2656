"""Which class a checkpoint is opened with: the one that its config.json names, if transformers knows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from evomerge.errors import CheckpointError
from evomerge.inference.live import LiveModel
from evomerge.models.checkpoint import Checkpoint
from helpers.classifiers import classifier, write_family


def renamed(model: Path, folder: Path, architectures: list[str] | None) -> Checkpoint:
    """A copy of a model whose config.json names other classes."""
    shutil.copytree(model, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["architectures"] = architectures
    (folder / "config.json").write_text(json.dumps(settings))
    return Checkpoint.open(folder)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "vit"])
def test_every_stored_tensor_of_a_classifier_is_written_in_place(kind: str, tmp_path: Path) -> None:
    models = {name: Checkpoint.open(folder) for name, folder in write_family(tmp_path, kind).items()}
    live = LiveModel.build(models["base"], dtype=torch.float32)
    assert type(live.model) is type(classifier(kind))
    assert set(live.targets) == set(models["base"].names)
    for name, target in live.targets.items():
        target.copy_(models["a"].tensor(name))
    other = type(live.model).from_pretrained(models["a"].folder)
    for name, parameter in live.model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


@pytest.mark.parametrize("architectures", [None, ["LLaMAForCausalLM"], ["LlamaForCausalLM"]])
def test_models_of_old_names_or_none_are_causal_language_models(
    architectures: list[str] | None, tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    live = LiveModel.build(renamed(tiny_llama["base"], tmp_path / "model", architectures), dtype=torch.float32)
    assert type(live.model) is transformers.LlamaForCausalLM


@pytest.mark.parametrize("name", ["LlamaWithMyHead", "BertForSequenceClassification", "PreTrainedModel"])
def test_a_class_that_transformers_does_not_have_for_the_model_is_refused(
    name: str, tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"names the architecture '{name}', which none of"):
        LiveModel.build(renamed(tiny_llama["base"], tmp_path / "model", [name]), dtype=torch.float32)
