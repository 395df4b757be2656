"""Adapters with tokens of their own."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from evomerge.errors import CheckpointError
from evomerge.materialise.merger import Merger
from evomerge.models.open import open_models
from evomerge.recipe.sources import ModelReference, Sources
from helpers.adapters import LLAMA, assert_close, recipe_of, write_adapter
from helpers.merging import streamed
from helpers.vocabulary import bpe, with_added, write_model

# PEFT still reads a property that transformers has renamed, and tells of weights that are stored transposed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": [*LLAMA, "embed_tokens"]},
    ],
)
def test_an_adapter_with_tokens_of_its_own_is_united_with_its_base(
    tmp_path: Path, settings: dict[str, Any], tied: bool
) -> None:
    base = write_model(tmp_path / "base", bpe(290), tied=tied)
    folder = write_adapter(tmp_path / "adapter", base, rows=292, **settings)
    grown = with_added(bpe(290), "<|x|>", "<|y|>")
    grown.save_pretrained(folder)
    references = {"a": ModelReference(path=str(folder))}
    if refused := _reason_to_refuse(settings, tied):
        with pytest.raises(CheckpointError, match=refused):
            open_models(Sources(base=ModelReference(path=str(base)), experts=references, vocabulary="union"))
        return
    models = open_models(Sources(base=ModelReference(path=str(base)), experts=references, vocabulary="union"))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(292)
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    expected = {name: merged.state_dict()[name] for name in models.base.names}
    assert models.base.tokenizer().get_vocab() == grown.get_vocab()
    assert_close({name: models.experts["a"].tensor(name) for name in models.base.names}, expected)
    recipe = recipe_of(base, {"a": folder}, vocabulary="union")
    stream = streamed(Merger(models), recipe).items()
    assert_close(dict(stream), expected)
    copy = pickle.loads(pickle.dumps(models.experts["a"]))
    assert all(torch.equal(copy.tensor(name), models.experts["a"].tensor(name)) for name in copy.names)


def _reason_to_refuse(settings: Mapping[str, Any], tied: bool) -> str | None:
    if "target_modules" in settings:
        return "ties its head" if tied else "lm_head.weight: no model has a row for the token '<|x|>'"
    # Trained apart from the head, so that they are tied no more.
    return r"hasn't: lm_head\.weight" if tied and settings else None
