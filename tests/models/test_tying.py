"""The output head and the embedding: which of them a folder must hold, held to what transformers reports on loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import notes_of, open_models
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint
from helpers.checkpoints import edit_config, edit_tensors, store_head


@pytest.mark.parametrize("said", [True, False, ...], ids=["tied", "untied", "not said"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_without_a_head_opens_where_transformers_misses_none(
    tmp_path: Path, architecture: str, said: Any
) -> None:
    folder = tiny_checkpoint(tmp_path / architecture, architecture, tied=False)
    # GPT-NeoX stores its head by an older name than transformers reports.
    stored = "embed_out.weight" if architecture == "gpt_neox" else "lm_head.weight"
    edit_tensors(folder, lambda tensors: tensors.pop(stored))
    edit_config(folder, tie_word_embeddings=said)
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    if report["missing_keys"]:
        with pytest.raises(CheckpointError, match=f"{folder}: holds no lm_head.weight, .*tie_word_embeddings"):
            Checkpoint.open(folder)
    else:
        assert Checkpoint.open(folder).head is None


def test_a_model_without_a_language_models_head_needs_none(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "llama", tied=False)
    edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    edit_config(folder, architectures=["LlamaModel"])
    assert Checkpoint.open(folder).head is None


def test_a_table_of_the_embeddings_shape_may_be_the_head_by_another_name(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "llama", tied=False)
    edit_tensors(folder, lambda tensors: tensors.update({"unembed.weight": tensors.pop("lm_head.weight")}))
    assert "unembed.weight" in Checkpoint.open(folder).names


def test_an_expert_that_lost_its_head_isnt_merged_as_a_tied_one(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", tied=False)
    expert = tiny_checkpoint(tmp_path / "expert", tied=False, seed=1)
    edit_tensors(expert, lambda tensors: tensors.pop("lm_head.weight"))
    sources = Sources(base=ModelReference(path=str(base)), experts={"a": ModelReference(path=str(expert))})
    with pytest.raises(CheckpointError, match=r"expert 'a': .*expert: holds no lm_head\.weight"):
        open_models(sources)


def test_a_tied_models_head_of_its_own_stays_as_in_transformers_and_is_said(
    copy_of: Callable[[Path], Path], tied: dict[str, Path]
) -> None:
    folder = copy_of(tied["base"])
    store_head(folder, change=0.5)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    model = Checkpoint.open(folder)
    assert model.head is not None
    assert not torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)
    assert torch.equal(loaded.lm_head.weight, model.tensor("lm_head.weight"))
    sources = Sources(base=model.reference, experts={"a": model.reference})
    ours, theirs = notes_of(open_models(sources))
    assert "lm_head.weight differs from model.embed_tokens.weight, so they stay two tensors" in ours
    assert theirs == f"expert 'a': {ours}"


def test_nothing_is_said_of_a_head_that_is_as_its_config_says(tied: dict[str, Path], llama: Path) -> None:
    assert Checkpoint.open(tied["base"]).notes == Checkpoint.open(llama).notes == ()
