"""Maps refined on a text: models keep their functions, and what lies between them gets better or stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import AlignmentError
from evomerge.models.alignment import Alignable, Found
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.align import Align
from evomerge.study.align import align
from evomerge.study.merge import merge
from evomerge.study.refine import lessons, refined
from evomerge.testing.models import tiny_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("one two three four five six seven eight nine ten. " * 80)
    return path


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 19)[None]).logits
    return found


def turned(folder: Path, out: Path) -> Path:
    """The same model with heads turned inside and hidden units in other places."""
    kin = Alignable(align=Align(residual="none"), models={"base": Checkpoint.open(folder)})
    spec, weights = kin.frame.spec, load_file(folder / "model.safetensors")
    maps = spec.random(np.random.default_rng(3))
    out.mkdir()
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (out / file.name).write_bytes(file.read_bytes())
    moved = {name: spec.apply(maps, name, tensor.double()).to(tensor.dtype) for name, tensor in weights.items()}
    save_file(moved, out / "model.safetensors", {"format": "pt"})
    return out


def test_turns_that_the_method_left_are_learned_from_the_text(tmp_path: Path, text: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", seed=0)
    weights = load_file(base / "model.safetensors")
    save_file({name: 4 * one if one.ndim > 1 else one for name, one in weights.items()}, base / "model.safetensors")
    models = {"base": Checkpoint.open(base), "a": Checkpoint.open(turned(base, tmp_path / "a"))}
    kin = Alignable(align=Align(residual="none", hidden=False), models=models)
    kin.check()
    spec = kin.frame.spec
    found, gains = refined(kin, Found({"base": {}, "a": spec.identity()}), lessons(text, models["base"], steps=30))
    assert gains["a"].kept
    assert gains["a"].after < gains["a"].before
    for label, map_ in found.maps["a"].items():
        spec.labels[label].load(map_.arrays())
    assert found.maps["base"] == {}


@pytest.mark.parametrize("residual", [None, "orthogonal"])
def test_a_refined_model_computes_what_it_computed_and_is_made_again_from_its_recipe(
    tmp_path: Path, text: Path, residual: str | None
) -> None:
    folders = [tiny_checkpoint(tmp_path / f"m{seed}", seed=seed) for seed in range(2)]
    written = align(folders[0], folders[1:], tmp_path / "out", residual=residual, text=text, steps=3, dtype="float32")
    first = written[0]
    assert first.refinement is not None
    assert first.refinement.kept == (first.refinement.after < first.refinement.before)
    torch.testing.assert_close(logits(first.folder), logits(folders[1]), rtol=0, atol=2e-4)
    again = merge(first.folder / "recipe.yaml", tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (first.folder / "model.safetensors").read_bytes()


def test_a_text_of_less_than_two_windows_is_refused_before_maps_are_found(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("one two")
    folders = [tiny_checkpoint(tmp_path / f"m{seed}", seed=seed) for seed in range(2)]
    matched: list[int] = []
    with pytest.raises(AlignmentError, match="too short to refine maps on"):
        align(
            folders[0], folders[1:], tmp_path / "out", text=tmp_path / "short.txt",
            progress=lambda done, total: matched.append(done),
        )  # fmt: skip
    assert matched == []
    assert not (tmp_path / "out").exists()
