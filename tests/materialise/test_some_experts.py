"""A recipe with some of the experts merges as if there were no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evomerge.materialise.merger import Merger
from evomerge.materialise.prepare import KEPT_PREPARATIONS
from evomerge.models.open import open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_family
from helpers.merging import streamed, written


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    models = tiny_family(tmp_path_factory.mktemp("models"), "llama", layers=2, experts=("a", "b", "c"))
    return Recipe(
        base=ModelReference(path=str(models["base"])),
        experts={name: ModelReference(path=str(models[name])) for name in ("a", "b", "c")},
        method="ties",
    )


def of(whole: Recipe, *experts: str, method: str = "ties") -> Recipe:
    weights = dict(zip(experts, (0.7, 0.4, 0.2), strict=False))
    return replace(
        whole,
        method=method,
        experts={name: whole.experts[name] for name in experts},
        groups=(Group(name="all", coefficients={"weight": weights}),),
    )


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "tsv_merge", "dare_ties"])
@pytest.mark.parametrize("experts", [("a",), ("a", "c"), ("b", "c")])
def test_the_bytes_are_those_of_a_merge_without_the_others(
    whole: Recipe, method: str, experts: tuple[str, ...]
) -> None:
    recipe = of(whole, *experts, method=method)
    among = Merger(open_models(whole))
    alone = streamed(Merger(open_models(recipe)), recipe)
    targets = {name: torch.empty_like(tensor) for name, tensor in alone.items()}
    written(among, of(whole, "a", "b", "c", method=method), targets)
    written(among, recipe, targets)
    for found in (streamed(among, recipe), targets):
        assert all(torch.equal(found[name], tensor) for name, tensor in alone.items())


def test_sets_of_experts_share_the_room_for_what_methods_prepare(whole: Recipe, tmp_path: Path) -> None:
    merger = Merger(open_models(whole))
    for experts in (("a",), ("b",), ("a", "b"), ("b", "c"), ("a", "b", "c")):
        merger.prepare(merger.bind(of(whole, *experts, method="tsv_merge")))
    assert len(merger.preparer.kept) == KEPT_PREPARATIONS
    for experts in (("a",), ("b",), ("a", "b")):
        merger.prepare(merger.bind(of(whole, *experts, method="task_arithmetic")))
    # What takes no memory displaces nothing.
    assert [key[-3] for key in merger.preparer.kept].count("tsv_merge") == KEPT_PREPARATIONS


def test_states_of_some_experts_that_can_not_be_shared_are_told_of(whole: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "states"
    folder.write_text("a file")
    merger = Merger(open_models(whole), states=folder)
    assert merger.prepare(merger.bind(of(whole, "a", "b", method="task_arithmetic"))) is None
    for experts in (("a", "b"), ("a", "b", "c")):
        found = merger.prepare(merger.bind(of(whole, *experts, method="tsv_merge")))
        assert found is not None
        assert found.startswith(f"{folder}: prepared states can't be kept there")
