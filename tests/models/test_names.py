"""The same tensor under other names: tied heads, and prefixes left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.names import match_names
from evomerge.testing.models import tiny_family
from helpers.checkpoints import edit_tensors


def test_a_tied_experts_head_is_its_embedding_where_the_base_has_one_of_its_own(
    tied: dict[str, Path], tiny_llama: dict[str, Path]
) -> None:
    base, expert = Checkpoint.open(tiny_llama["base"]), Checkpoint.open(tied["a"])
    check_compatible(base, {"a": expert})
    names = match_names(base, expert)
    assert names["lm_head.weight"] == "model.embed_tokens.weight"
    assert names["model.embed_tokens.weight"] == "model.embed_tokens.weight"
    assert list(names) == list(base.names)


@pytest.mark.parametrize("without", ["base", "a"])
@pytest.mark.parametrize(("architecture", "prefix"), [("gpt2", "transformer."), ("llama", "model.")])
def test_names_without_the_base_models_prefix_are_the_same_tensors(
    tmp_path: Path, without: str, architecture: str, prefix: str
) -> None:
    folders = tiny_family(tmp_path, architecture)

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix(prefix)] = tensors.pop(name)

    edit_tensors(folders[without], strip)
    models = {name: Checkpoint.open(folder) for name, folder in folders.items()}
    check_compatible(models["base"], {"a": models["a"]})
    for name, other in match_names(models["base"], models["a"]).items():
        assert name.removeprefix(prefix) == other.removeprefix(prefix)
