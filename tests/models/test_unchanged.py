"""Which tensors of experts are the base's: by their numbers, wherever the first that differs is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.kernels.raw import RawTensor
from evomerge.models.open import as_family, open_each
from evomerge.models.unchanged import unchanged_tensors
from evomerge.recipe.sources import ModelReference, Sources
from helpers.adapters import LLAMA
from helpers.checkpoints import edit_config, edit_tensors

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]

Copies = Callable[[Path], Path]
DOWN = "model.layers.1.mlp.down_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NORM = "model.norm.weight"


def unchanged(base: Path, **experts: Path) -> dict[str, frozenset[str]]:
    references = {name: ModelReference(path=str(path)) for name, path in experts.items()}
    sources = Sources(base=ModelReference(path=str(base)), experts=references)
    return unchanged_tensors(as_family(open_each(sources), sources))


def test_every_tensor_with_the_bases_numbers_is_found(llama: Path, copy_of: Copies) -> None:
    expert = copy_of(llama)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[DOWN].view(-1)[-1] += 1e-3
        tensors[NORM][0] = float("nan")

    edit_tensors(expert, change)
    found = unchanged(llama, tuned=expert, same=copy_of(llama))
    assert found["same"] - found["tuned"] == {DOWN, NORM}
    assert len(found["same"]) > 10


def test_a_model_that_names_its_tensors_otherwise_and_ties_its_head_is_compared_all_the_same(
    llama: Path, copy_of: Copies
) -> None:
    stored = copy_of(llama)
    edit_tensors(stored, lambda tensors: tensors[HEAD].copy_(tensors[EMBEDDING]))
    bare = copy_of(stored)
    edit_config(bare, tie_word_embeddings=True)

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[HEAD]
        for name in [*tensors]:
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit_tensors(bare, rename)
    found = unchanged(stored, other=bare)["other"]
    assert {HEAD, EMBEDDING, DOWN, NORM} <= found


def test_the_same_numbers_in_another_dtype_are_unchanged(llama: Path, copy_of: Copies) -> None:
    expert = copy_of(llama)
    edit_tensors(expert, lambda tensors: tensors.update({DOWN: tensors[DOWN].double()}))
    assert DOWN in unchanged(llama, wide=expert)["wide"]
    edit_tensors(expert, lambda tensors: tensors.update({DOWN: tensors[DOWN].bfloat16()}))
    assert DOWN not in unchanged(llama, narrow=expert)["narrow"]


def test_an_adapter_changes_what_it_has_updates_for_and_the_rest_is_not_read(
    llama: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RawTensor, "equals", lambda *_: pytest.fail("the base's own tensors were compared"))
    found = unchanged(llama, adapted=adapter)["adapted"]
    names = load_file(llama / "model.safetensors")
    assert found == {name for name in names if not any(part in name for part in LLAMA)}


@pytest.mark.parametrize("place", [0, 1023, 1024, 1025, (1 << 20) + 1023, (1 << 20) + 1024, (1 << 21) + 7])
def test_a_difference_is_seen_wherever_it_is(place: int) -> None:
    tensor = torch.zeros((1 << 21) + 8, dtype=torch.bfloat16)
    other = tensor.clone()
    assert RawTensor.of(tensor).equals(RawTensor.of(other))
    other[place] = 1.0
    assert not RawTensor.of(tensor).equals(RawTensor.of(other))
