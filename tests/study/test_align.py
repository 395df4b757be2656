"""Aligned folders: they compute what the models computed, load as they did, and say what was done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.errors import AlignmentError, CheckpointError, ExportError
from evomerge.recipe.recipe import Recipe
from evomerge.study.align import align
from evomerge.study.merge import merge
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint

pytestmark = pytest.mark.slow

TOKENS = torch.arange(3, 40)[None]


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(TOKENS).logits


def pair(folder: Path, architecture: str = "llama", **settings: object) -> tuple[Path, Path]:
    one, two = (tiny_checkpoint(folder / f"model-{seed}", architecture, seed=seed, **settings) for seed in (1, 2))
    return one, two


@pytest.mark.parametrize("residual", [None, "orthogonal"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_aligned_model_computes_what_it_computed_and_loads_with_its_tokenizer(
    tmp_path: Path, architecture: str, residual: str | None
) -> None:
    reference, model = pair(tmp_path, architecture)
    written = align(reference, [model], tmp_path / "out", residual=residual)
    names = ["model-2"] if residual is None else ["model-2", "model-1"]
    assert [found.name for found in written] == names
    for found, source in zip(written, (model, reference), strict=False):
        assert torch.allclose(logits(found.folder), logits(source), atol=1e-5)
        texts = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (found.folder, source)]
        assert texts[0] == texts[1]
    assert written[0].after > written[0].before
    assert 0 < written[0].moved <= written[0].labels


def test_ties_are_kept_unless_norms_are_folded_and_that_is_said(tmp_path: Path) -> None:
    reference, model = pair(tmp_path, "llama", tied=True)
    (kept,) = align(reference, [model], tmp_path / "kept")
    assert "lm_head.weight" not in load_file(kept.folder / "model.safetensors")
    assert json.loads((kept.folder / "config.json").read_text())["tie_word_embeddings"] is True
    untied, _ = align(reference, [model], tmp_path / "untied", residual="orthogonal")
    assert "lm_head.weight" in load_file(untied.folder / "model.safetensors")
    assert json.loads((untied.folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("no longer tied" in note for note in untied.notes)
    assert torch.allclose(logits(untied.folder), logits(model), atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_orders_and_signs_move_16_bit_numbers_without_rounding(tmp_path: Path, dtype: str) -> None:
    reference, model = pair(tmp_path, dtype=dtype)
    (found,) = align(reference, [model], tmp_path / "out", rotations=False)
    before, after = (load_file(folder / "model.safetensors") for folder in (model, found.folder))
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(tensor.abs().flatten().sort().values, after[name].abs().flatten().sort().values)


def test_the_folder_holds_maps_report_and_a_recipe_that_makes_it_again(tmp_path: Path) -> None:
    reference, model = pair(tmp_path)
    (found,) = align(reference, [model], tmp_path / "out", seed=3)
    report = json.loads((found.folder / "alignment" / "report.json").read_text())
    assert report["similarity"] == pytest.approx({"before": found.before, "after": found.after})
    assert report["align"]["seed"] == 3
    assert report["align"]["reference"] == "model-1"
    assert len(report["moved"]) == found.moved
    assert set(report["tensors"]) == set(load_file(model / "model.safetensors"))
    assert all(step["gain"] > 0 for step in report["steps"])
    again = merge(found.folder / "recipe.yaml", tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (found.folder / "model.safetensors").read_bytes()
    maps = "alignment/maps.safetensors"
    assert (again / maps).read_bytes() == (found.folder / maps).read_bytes()


def test_maps_of_other_models_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    reference, model = pair(tmp_path)
    (found,) = align(reference, [model], tmp_path / "out")
    maps = found.folder / "alignment" / "maps.safetensors"
    recipe = Recipe.from_file(found.folder / "recipe.yaml")
    data = maps.read_bytes()
    maps.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(AlignmentError, match="isn't the file of maps that this merge was made with"):
        merge(recipe, tmp_path / "again")
    maps.write_bytes(data)
    tiny_checkpoint(model, seed=9)
    with pytest.raises(AlignmentError, match="were found for another model than 'base' is now"):
        merge(recipe, tmp_path / "again")
    maps.unlink()
    with pytest.raises(AlignmentError, match="file of maps can't be read"):
        merge(recipe, tmp_path / "again")


def test_identical_models_are_left_as_they_are_and_it_is_said(tmp_path: Path) -> None:
    reference = tiny_checkpoint(tmp_path / "reference")
    same = tiny_checkpoint(tmp_path / "same")
    (found,) = align(reference, [same], tmp_path / "out")
    assert (found.moved, found.before) == (0, pytest.approx(1.0))
    assert any("alignment leaves it as it is" in note for note in found.notes)
    before, after = (load_file(folder / "model.safetensors") for folder in (same, found.folder))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("method", ["weight_matching", "merge_many"])
def test_several_models_are_aligned_together(tmp_path: Path, method: str) -> None:
    folders = [tiny_checkpoint(tmp_path / f"m{seed}", seed=seed) for seed in range(3)]
    written = align(folders[0], folders[1:], tmp_path / "out", method=method)
    assert [found.name for found in written] == ["m1", "m2"]
    for found, source in zip(written, folders[1:], strict=True):
        assert torch.allclose(logits(found.folder), logits(source), atol=1e-5)


def test_names_of_folders_that_are_called_alike_differ(tmp_path: Path) -> None:
    reference, one, two = (tiny_checkpoint(tmp_path / str(seed) / "model", seed=seed) for seed in range(3))
    written = align(reference, [one, two], tmp_path / "out")
    assert [found.name for found in written] == ["model-1", "model-2"]


def test_what_cannot_be_aligned_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    reference, model = pair(tmp_path)
    out = tmp_path / "out"

    def refused(error: type[Exception], message: str, *models: Path, **options: object) -> None:
        with pytest.raises(error, match=message):
            align(reference, list(models), out, **options)  # type: ignore[arg-type]
        assert not out.exists()

    refused(AlignmentError, "is the reference, which stays as it is; leave it out", model, reference)
    refused(AlignmentError, "is named twice", model, model)
    refused(AlignmentError, "name at least one model")
    deep = tiny_checkpoint(tmp_path / "deep", layers=3)
    refused(CheckpointError, "has 3 layers", deep)
    refused(CheckpointError, "is 64 wide", tiny_checkpoint(tmp_path / "wide", hidden=64))
    refused(CheckpointError, "mlp", tiny_checkpoint(tmp_path / "thick", intermediate_size=96))
    refused(CheckpointError, "is a GPT2LMHeadModel", tiny_checkpoint(tmp_path / "other", "gpt2"))
    refused(LookupError, "unknown alignment method 'weight_maching'. Did you mean", model, method="weight_maching")
    refused(AlignmentError, "unknown option of weight_matching 'order'", model, options={"order": 1})
    refused(AlignmentError, "unknown symmetry of the residual stream", model, residual="any")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    refused(AlignmentError, r"model\.layers\.1\.mlp\.up_proj\.weight: holds numbers that aren't finite", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    refused(CheckpointError, "its weights are quantised", model)
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(ExportError, match="is there already"):
        align(reference, [deep], out)


def test_an_architecture_without_a_spec_is_named(tmp_path: Path) -> None:
    reference, model = pair(tmp_path)
    for folder in (reference, model):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    with pytest.raises(AlignmentError, match=r"unknown model type with a spec 'lama'\. Did you mean 'llama'"):
        align(reference, [model], tmp_path / "out")


def test_progress_is_told_while_maps_are_found_and_while_folders_are_written(tmp_path: Path) -> None:
    reference, model = pair(tmp_path)
    found: list[tuple[int, int]] = []
    written: list[tuple[int, int]] = []
    align(
        reference,
        [model],
        tmp_path / "out",
        progress=lambda *at: found.append(at),
        writing=lambda *at: written.append(at),
    )
    assert found[-1][0] == found[-1][1]
    assert written[-1][0] == written[-1][1]
