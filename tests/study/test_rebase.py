"""Rebasing: with planted maps the expert is found on the new base, and what can't be moved is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.alignment.kinds import Permutation, SignedPermutation
from evomerge.alignment.spec import Maps
from evomerge.errors import AlignmentError, CheckpointError, ExportError
from evomerge.models.aligned import Frame
from evomerge.models.alignment import Alignable
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.align import BASE, Align
from evomerge.study.merge import merge
from evomerge.study.rebase import rebase
from evomerge.testing.models import tiny_checkpoint, tiny_family

TOKENS = torch.arange(3, 40)[None]


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(TOKENS).logits


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An old base, an expert of it, and a new base: the old one under planted orders and signs."""
    folder = tmp_path_factory.mktemp("rebased")
    found = tiny_family(folder, "llama", ("expert",), scale=0.01)
    frame, planted = planted_maps(found["base"])
    # Its own config and tokenizer, its weights replaced.
    new = tiny_checkpoint(folder / "new")
    moved = {name: frame.spec.apply(planted, name, tensor) for name, tensor in weights(found["base"]).items()}
    save_file(
        {name: tensor.contiguous() for name, tensor in moved.items()}, new / "model.safetensors", {"format": "pt"}
    )
    return {**found, "new": new}


def planted_maps(base: Path) -> tuple[Frame, Maps]:
    """The maps of an alignment of the base with another model, each with its parts in another, random order."""
    model = Checkpoint.open(base)
    frame = Alignable(align=Align(), models={BASE: model}).frame
    generator = np.random.default_rng(3)
    maps = {
        label: kind.random(generator)
        for label, kind in frame.spec.labels.items()
        if isinstance(kind, Permutation | SignedPermutation)
    }
    assert maps
    return frame, maps


def test_an_expert_of_a_base_in_another_order_is_itself_on_it(tmp_path: Path, family: dict[str, Path]) -> None:
    assert torch.allclose(logits(family["new"]), logits(family["base"]), atol=1e-5)
    assert not torch.allclose(weights(family["new"])["lm_head.weight"], weights(family["base"])["lm_head.weight"])
    made = rebase(family["expert"], family["base"], family["new"], tmp_path / "out")
    assert made.after == pytest.approx(1.0, abs=1e-6)
    assert made.before < 0.5
    assert torch.allclose(logits(made.folder), logits(family["expert"]), atol=1e-4)
    assert not torch.allclose(logits(made.folder), logits(family["new"]), atol=1e-2)
    # Added as it is, what the expert changed would be noise.
    plain = {name: tensor + weights(family["expert"])[name] - weights(family["base"])[name]
             for name, tensor in weights(family["new"]).items()}  # fmt: skip
    found = weights(made.folder)
    assert any(not torch.allclose(plain[name], found[name], atol=1e-3) for name in found)


def test_half_of_the_changes_lie_half_way(tmp_path: Path, family: dict[str, Path]) -> None:
    new = weights(family["new"])
    whole, half, none = (
        weights(rebase(family["expert"], family["base"], family["new"], tmp_path / str(scale), scale=scale).folder)
        for scale in (1.0, 0.5, 0.0)
    )
    for name, tensor in new.items():
        assert torch.equal(none[name], tensor)
        assert torch.allclose(half[name] - tensor, (whole[name] - tensor) / 2, atol=1e-6)


def test_onto_its_own_base_an_expert_is_left_as_it_is(tmp_path: Path, family: dict[str, Path]) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in family["base"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    made = rebase(family["expert"], family["base"], copy, tmp_path / "out")
    assert made.moved == 0
    expert = weights(family["expert"])
    assert all(torch.allclose(tensor, expert[name], atol=1e-6) for name, tensor in weights(made.folder).items())


def test_the_recipe_makes_the_folder_again(tmp_path: Path, family: dict[str, Path]) -> None:
    made = rebase(family["expert"], family["base"], family["new"], tmp_path / "out")
    again = merge(made.folder / "recipe.yaml", tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (made.folder / "model.safetensors").read_bytes()


def test_what_cannot_be_moved_is_refused(tmp_path: Path, family: dict[str, Path]) -> None:
    with pytest.raises(AlignmentError, match="is named as the expert and as its base"):
        rebase(family["base"], family["base"], family["new"], tmp_path / "out")
    with pytest.raises(AlignmentError, match="is named as the expert's base and as the one to move to"):
        rebase(family["expert"], family["base"], family["base"], tmp_path / "out")
    wide = tiny_checkpoint(tmp_path / "wide", hidden=64)
    with pytest.raises(CheckpointError, match="wide"):
        rebase(family["expert"], family["base"], wide, tmp_path / "out")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(AlignmentError, match="isn't a whole model; make one of it first"):
        rebase(adapter, family["base"], family["new"], tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ExportError, match="is there already"):
        rebase(family["expert"], family["base"], family["new"], tmp_path / "out")


def test_the_command_says_how_many_sets_of_units_moved(tmp_path: Path, family: dict[str, Path]) -> None:
    from typer.testing import CliRunner

    from evomerge.cli import app

    told = ["rebase", str(family["expert"]), "--from", str(family["base"]), "--onto", str(family["new"])]
    done = CliRunner().invoke(app, [*told, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "sets of units moved; cosine of the bases" in done.output
    assert "→ 1.000" in done.output


def test_a_spec_of_ones_own_says_what_may_move(tmp_path: Path, family: dict[str, Path]) -> None:
    bases = family["base"], family["new"]
    fixed = {"labels": {}, "tensors": dict.fromkeys(weights(family["base"]), "fixed")}
    made = rebase(family["expert"], *bases, tmp_path / "out", spec=fixed)
    assert made.moved == 0
    assert made.after == made.before < 0.5
    with pytest.raises(AlignmentError, match="residual: a spec of one's own"):
        rebase(family["expert"], *bases, tmp_path / "again", spec=fixed, residual="none")
