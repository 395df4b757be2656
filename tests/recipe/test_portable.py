"""A recipe to pass on names no part of a disk, and is the same merge where its models lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.recipe.portable import is_local, portable
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference


def recipe(base: str, expert: str) -> Recipe:
    reference = ModelReference
    return Recipe(base=reference(path=base), experts={"a": reference(path=expert)}, method="linear", groups=())


def test_models_near_the_recipe_are_found_again_from_its_folder(tmp_path: Path) -> None:
    for name in ("models/base", "models/a", "runs/out"):
        (tmp_path / name).mkdir(parents=True)
    given = recipe(str(tmp_path / "models/base"), str(tmp_path / "models/a"))
    made = portable(given, tmp_path / "runs/out")
    assert (made.base.path, made.experts["a"].path) == ("../../models/base", "../../models/a")
    (tmp_path / "runs/out/recipe.yaml").write_text(made.to_yaml())
    assert Recipe.from_file(tmp_path / "runs/out/recipe.yaml") == given


@pytest.mark.parametrize("path", ["/scratch/alice/secret/base", "/home/alice/base", "/home/bob/x/y/z"])
def test_models_far_away_are_named_by_the_recipe_alone(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("HOME", "/home/bob")
    made = portable(recipe(path, path), Path("/home/carol/runs/out"))
    assert (made.base.path, made.experts["a"].path) == ("./base", "./a")
    assert is_local(made.base), "never taken for a hub id"


def test_hub_ids_stay(tmp_path: Path) -> None:
    given = recipe("org/base", "org/a")
    assert portable(given, tmp_path) == given
