"""Models opened, named, refused where they don't fit, and written down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import evomerge
from evomerge.analysis.analyse import sources_of
from evomerge.config.config import Config
from evomerge.errors import CheckpointError, ConfigError
from evomerge.testing.models import tiny_checkpoint, tiny_family
from helpers.adapters import write_adapter


def changed(folder: Path, *, drop: str = "", add: dict[str, torch.Tensor] | None = None) -> Path:
    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if not drop or drop not in name}
    save_file(tensors | (add or {}), path, metadata={"format": "pt"})
    return folder


def test_a_config_gives_its_models_by_its_names(tiny_llama: dict[str, Path]) -> None:
    config = Config.from_data(
        {
            "models": {"base": str(tiny_llama["base"]), "experts": {"maths": str(tiny_llama["a"])}},
            "benchmark": {"tasks": ["any"]},
        }
    )
    found = evomerge.analyse(config, spectra="none")
    assert found.weights.experts == ("maths",)


def test_models_in_a_row_are_called_after_their_folders() -> None:
    found = sources_of(["x/base", "x/maths 7b", "y/maths 7b", "z/base"])
    assert list(found.experts) == ["maths-7b", "maths-7b-2", "expert-base"]
    assert found.base.path == "x/base"


@pytest.mark.parametrize("models", [["only"], [], {"a": "x", "b": "y"}, {"base": "x"}, "only"])
def test_a_base_and_an_expert_are_needed(models: list[str] | dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"base.*and at least one expert"):
        sources_of(models)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"top": 0.0}, "top: expected a fraction"), ({"spectra": "some"}, "spectra: expected one of")],
)
def test_wrong_settings_are_refused(tiny_llama: dict[str, Path], settings: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        evomerge.analyse(tiny_llama, **settings)  # type: ignore[arg-type]


def test_everything_is_plain_data_without_nan(tiny_llama: dict[str, Path]) -> None:
    found = evomerge.analyse(tiny_llama | {"same": tiny_llama["base"]})
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (data["format"], data["version"]) == ("evomerge analysis", 1)
    assert data["equal"] == [["base", "same"]]
    assert data["whole"]["norm"]["same"] == 0.0
    assert data["whole"]["cosine"]["a"]["same"] is None
    assert data["whole"]["cosine"]["a"]["a"] == 1.0
    assert data["whole"]["matrices"]["count"] == 14
    assert len(data["tensors"]) == len(found.weights.tensors)
    assert {group["kind"] for group in data["groups"]} == {"attention", "mlp", "norm", "embedding", "head"}


def test_tensors_that_only_one_model_has_are_named_and_the_rest_looked_at(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path)
    changed(folders["a"], add={"model.layers.0.extra.weight": torch.ones(3)})
    changed(folders["b"], drop="layers.1.mlp.up_proj")
    found = evomerge.analyse(folders)
    assert found.only_in == {
        "base": ("model.layers.1.mlp.up_proj.weight",),
        "a": ("model.layers.0.extra.weight", "model.layers.1.mlp.up_proj.weight"),
    } or found.only_in == {
        "base": ("model.layers.1.mlp.up_proj.weight",),
        "a": ("model.layers.1.mlp.up_proj.weight", "model.layers.0.extra.weight"),
    }
    assert [verdict.models for verdict in found.verdicts if verdict.topic == "missing"] == [("base",), ("a",)]
    assert "model.layers.1.mlp.up_proj.weight" not in {one.name for one in found.weights.tensors}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"architecture": "qwen2"}, "Qwen2ForCausalLM"),
        ({"hidden": 64}, "wide"),
        ({"layers": 3}, "3 layers, the base has 2"),
    ],
)
def test_other_architectures_widths_and_depths_are_refused(
    tmp_path: Path, settings: dict[str, object], told: str
) -> None:
    base = tiny_checkpoint(tmp_path / "base")
    other = tiny_checkpoint(tmp_path / "other", **settings)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=told):
        evomerge.analyse([base, other])


def test_other_shapes_are_refused_with_their_tensors(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    changed(folders["a"], drop="layers.1.mlp.up_proj", add={name: torch.zeros(60, 32)})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight 60×32"):
        evomerge.analyse(folders)


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path)
    path = folders["a"] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"bits": 4}}))
    with pytest.raises(CheckpointError, match=r"expert 'a'.*quantised"):
        evomerge.analyse(folders)


# PEFT still reads a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_is_looked_at_as_the_model_that_it_makes(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    adapter = write_adapter(tmp_path / "adapter", tiny_llama["base"])
    found = evomerge.analyse([tiny_llama["base"], adapter])
    moved = [one.name for one in found.weights.tensors if one.moments.changed.any()]
    assert moved
    assert all("proj" in name for name in moved)
    ranks = [one.matrices.stable_rank[0] for one in found.weights.tensors if one.matrices and one.name in moved]
    assert max(ranks) < 9


def test_two_copies_in_two_folders_are_found(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    shutil.copytree(tiny_llama["a"], tmp_path / "copy")
    found = evomerge.analyse([tiny_llama["base"], tiny_llama["a"], tmp_path / "copy"], spectra="none")
    assert "same" in {verdict.topic for verdict in found.verdicts}
