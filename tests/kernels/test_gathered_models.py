"""Whole models whose tensors are merged together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import MergeError
from evomerge.inference.live import LiveModel
from evomerge.recipe.group import Group
from evomerge.testing.models import tiny_family
from helpers.weighted import everywhere, merger_of, recipe_of

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # the interpreter's NumPy


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("method", "groups"),
    [
        ("task_arithmetic", (everywhere(weight={"a": 0.3, "b": 0.6}),)),
        ("dare_ties", (everywhere(weight={"a": 0.3, "b": 0.6}, density=0.5),)),
        ("ties", (everywhere(weight={"a": 0.3, "b": 0.6}, density=0.4),)),
        ("sce", (everywhere(density=0.3),)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_is_merged_to_the_same_bytes(
    tmp_path: Path, request: pytest.FixtureRequest, dtype: str, method: str, groups: tuple[Group, ...]
) -> None:
    folders = tiny_family(tmp_path, "llama", dtype="bfloat16")
    recipe = recipe_of(folders, *groups, method=method)
    found = []
    for interpreted in (False, True):
        if interpreted:
            launches = request.getfixturevalue("launches")
        merger = merger_of(folders)
        live = LiveModel.build(merger.base, dtype=getattr(torch, dtype))
        for _ in range(2):
            bound = merger.bind(recipe)
            merger.prepare(bound)
            if interpreted:
                launches.clear()
            merger.write(bound, live.targets)
        found.append({name: target.clone() for name, target in live.targets.items()})
    assert all(torch.equal(found[1][name], tensor) for name, tensor in found[0].items())
    if dtype == "bfloat16" and method in ("task_arithmetic", "dare_ties"):
        assert len(launches) == 1
        assert len(found[0]) > 10


def test_the_tensor_that_is_not_finite_is_named(tmp_path: Path, launches: list[int]) -> None:
    folders = tiny_family(tmp_path, "llama", dtype="float32")
    file = folders["b"] / "model.safetensors"
    tensors = load_file(file)
    broken = "model.layers.1.mlp.up_proj.weight"
    tensors[broken][3, 4] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    merger = merger_of(folders)
    live = LiveModel.build(merger.base, dtype=torch.float32)
    bound = merger.bind(recipe_of(folders, everywhere(weight=0.5), method="task_arithmetic"))
    with pytest.raises(MergeError, match=rf"{broken}: NaN or Inf in the weights of b;"):
        merger.write(bound, live.targets)
    assert len(launches) == 1
