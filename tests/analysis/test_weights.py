"""Models streamed tensor by tensor, against all of their numbers put in a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.analysis import weights as module
from evomerge.analysis.weights import is_finite, is_linear, spectra_layers, weight_statistics
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models, open_models
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.testing.models import tiny_family


def opened(folders: dict[str, Path]) -> Models:
    references = {name: ModelReference(path=str(folder)) for name, folder in folders.items()}
    return open_models(Sources(base=references.pop("base"), experts=references))


def rewritten(folder: Path, **changes: torch.Tensor) -> None:
    """Replace tensors of a stored model, by parts of their names."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for part, value in changes.items():
        (name,) = (name for name in tensors if part in name.replace(".", "_"))
        tensors[name] = value
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return tiny_family(tmp_path)


def test_the_sums_of_all_groups_are_those_of_the_whole_models(folders: dict[str, Path]) -> None:
    found = weight_statistics(opened(folders))
    stored = {name: load_file(folder / "model.safetensors") for name, folder in folders.items()}
    flat = {
        name: np.concatenate([tensors[key].double().numpy().ravel() for key in stored["base"]])
        for name, tensors in stored.items()
    }
    tau = [flat[name] - flat["base"] for name in ("a", "b")]
    whole = found.whole.moments
    np.testing.assert_allclose(whole.norms, [np.linalg.norm(vector) for vector in tau], rtol=1e-10)
    assert whole.entries == len(flat["base"])
    assert sum(group.moments.entries for group in found.groups) == whole.entries
    assert sum(group.moments.entries for group in found.kinds) == whole.entries
    assert [(group.layer, group.kind) for group in found.groups][:4] == [
        (0, "attention"),
        (0, "mlp"),
        (0, "norm"),
        (0, "embedding"),
    ]


def test_linear_layers_are_decomposed_and_tables_are_not(folders: dict[str, Path]) -> None:
    found = weight_statistics(opened(folders))
    decomposed = {one.name for one in found.tensors if one.matrices is not None}
    assert len(decomposed) == 2 * 7
    assert not [name for name in decomposed if "embed" in name or "norm" in name or "lm_head" in name]
    assert found.spectra_layers == (0, 1)
    attention = next(group for group in found.groups if group.kind == "attention")
    assert attention.num_matrices == 4
    assert attention.matrices is not None
    one = [
        one.matrices.stable_rank
        for one in found.tensors
        if one.matrices is not None and (one.layer, one.kind) == (0, "attention")
    ]
    np.testing.assert_allclose(attention.matrices.stable_rank, np.mean(one, axis=0))


def test_stacks_of_experts_are_means_over_their_matrices(tmp_path: Path) -> None:
    found = weight_statistics(opened(tiny_family(tmp_path, "mixtral", layers=1)))
    assert [one for one in found.tensors if one.matrices is not None and one.kind == "mlp"]
    assert is_linear("model.layers.0.mlp.experts.gate_up_proj", (4, 64, 32))


def test_copies_are_known_by_their_numbers(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = tiny_family(tmp_path / "copy")
    models = opened(folders | {"again": copy["a"], "nothing": copy["base"]})
    found = weight_statistics(models, spectra="none")
    names = ("base", *models.experts)
    same = {(names[i], names[j]) for i in range(5) for j in range(i) if found.equal[i][j]}
    assert same == {("again", "a"), ("nothing", "base")}
    assert found.whole.moments.changed[names.index("nothing") - 1] == 0


def test_tensors_with_nan_are_named_and_in_no_sum(folders: dict[str, Path]) -> None:
    rewritten(folders["b"], layers_1_mlp_up=torch.full((64, 32), float("nan")))
    found = weight_statistics(opened(folders))
    assert found.not_finite == {"model.layers.1.mlp.up_proj.weight": ("b",)}
    assert np.isfinite(found.whole.moments.norms).all()
    assert "model.layers.1.mlp.up_proj.weight" not in {one.name for one in found.tensors}


def test_progress_ends_at_everything(folders: dict[str, Path]) -> None:
    seen: list[tuple[int, int]] = []
    weight_statistics(opened(folders), spectra="none", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_layers_are_left_out_evenly_where_spectra_would_take_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Checkpoint.open(tiny_family(tmp_path, layers=5, hidden=16)["base"])
    assert spectra_layers(base, base.names, 2, "all") == set(range(5))
    assert spectra_layers(base, base.names, 2, "none") == set()
    assert spectra_layers(base, base.names, 2, "auto") == set(range(5))
    one = sum(
        module.cost((shape[0], shape[1]), 2)
        for name in base.names
        if is_linear(name, shape := base.tensors[name].shape) and base.layout.place(name).layer == 0
    )
    monkeypatch.setattr(module, "BUDGET", 3.5 * one)
    assert spectra_layers(base, base.names, 2, "auto") == {0, 2, 4}
    monkeypatch.setattr(module, "BUDGET", 0.0)
    assert spectra_layers(base, base.names, 2, "auto") == {2}


def test_numbers_that_arent_finite_are_found_in_every_dtype() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn):
        good = torch.ones(7).to(dtype)
        bad = torch.tensor([1.0, float("nan")]).to(dtype)
        assert is_finite(good)
        assert not is_finite(bad)
    assert is_finite(torch.arange(3))
    assert is_finite(torch.zeros(0))
