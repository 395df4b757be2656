"""Models that are recipes which align theirs, seen before they are merged: any maps leave the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.config.config import Config
from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.align import Align
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.run.directory import open_run
from evomerge.study.check import check
from evomerge.study.check_merge import look_at_merges
from evomerge.study.merge import merge
from evomerge.study.search import search
from evomerge.testing.models import tiny_checkpoint
from helpers.first_merges import config_of, weights

pytestmark = pytest.mark.slow


@pytest.fixture
def apart(tmp_path: Path) -> dict[str, Path]:
    """Two models that have nothing in common, whose heads are tied to their embeddings."""
    return {name: tiny_checkpoint(tmp_path / name, seed=seed, tied=True) for seed, name in enumerate(("one", "two"))}


def aligning(path: Path, models: dict[str, Path], **settings: Any) -> Path:
    """A recipe that brings the second model to the first and takes half of each."""
    group = Group(name="all", coefficients={"weight": {"two": 0.5}})
    recipe = Recipe(
        base=ModelReference(path=str(models["one"])),
        experts={"two": ModelReference(path=str(models["two"]))},
        method="task_arithmetic",
        groups=(group,),
        align=Align(method="weight_matching", **settings),
    )
    path.write_text(recipe.to_yaml())
    return path


def form(model: Checkpoint) -> Any:
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    return config, {name: (info.shape, info.kind) for name, info in model.tensors.items()}, model.size_bytes


@pytest.mark.parametrize("residual", [None, "signed", "orthogonal"])
def test_an_outline_has_the_form_of_the_merge(tmp_path: Path, apart: dict[str, Path], residual: str | None) -> None:
    recipe = aligning(tmp_path / "aligning.yaml", apart, residual=residual)
    found = look_at_merges(recipe, tmp_path / "outlines")
    made = Checkpoint.open(merge(recipe, tmp_path / "out"))
    assert form(Checkpoint.open(found.outlines[None])) == form(made)
    # Norms that are folded leave a head that isn't the embedding any more.
    assert ("lm_head.weight" in made.tensors) == (residual == "orthogonal")
    assert found.merges[-1].size_bytes == made.size_bytes
    assert not found.unchecked
    assert "the models are aligned by weight_matching when they are merged" in found.notes
    assert not any("its units lie" in note for note in found.notes)


def test_what_doesnt_fit_an_aligned_merge_is_found_before_it_is_made(
    tmp_path: Path, tasks: Path, apart: dict[str, Path]
) -> None:
    recipe = aligning(tmp_path / "aligning.yaml", apart)
    wide = tiny_checkpoint(tmp_path / "wide", hidden=64)
    config = config_of(tmp_path, tasks, wide, x=recipe, y=wide)
    for look in (check, lambda config: search(config, tmp_path / "run")):
        with pytest.raises(CheckpointError, match=rf"expert 'x': .*{recipe}"):
            look(config)
    assert not (tmp_path / "run" / "merged").exists()


def test_models_that_cant_be_aligned_are_found_by_their_headers(
    tmp_path: Path, tasks: Path, apart: dict[str, Path]
) -> None:
    wide = tiny_checkpoint(tmp_path / "wide", hidden=64)
    recipe = aligning(tmp_path / "aligning.yaml", {**apart, "two": wide})
    config = config_of(tmp_path, tasks, apart["one"], x=recipe, y=apart["one"])
    for look in (check, lambda config: search(config, tmp_path / "run")):
        with pytest.raises(Exception, match=r"models\.experts\.x: .*wide"):
            look(config)
    assert not (tmp_path / "run" / "merged").exists()


def test_a_search_over_an_aligning_recipe_is_sized_as_it_becomes(
    tmp_path: Path, tasks: Path, apart: dict[str, Path]
) -> None:
    recipe = aligning(tmp_path / "aligning.yaml", apart, residual="orthogonal")
    config = config_of(tmp_path, tasks, recipe, x=apart["one"])
    found = check(config)
    search(config, tmp_path / "run")
    merged = tmp_path / "run" / "merged" / "base"
    assert weights(merged) == weights(merge(recipe, tmp_path / "beside"))
    assert found.models[0].size_bytes == Checkpoint.open(merged).size_bytes
    assert [item.name for item in found.dimensions] == _searched(tmp_path / "run")


def test_a_search_that_folds_norms_may_search_the_head_that_this_unties(
    tmp_path: Path, tasks: Path, apart: dict[str, Path]
) -> None:
    config_of(tmp_path, tasks, apart["one"], x=apart["two"])
    data = yaml.safe_load((tmp_path / "config.yaml").read_text())
    data["models"]["align"] = {"method": "weight_matching", "residual": "orthogonal"}
    data["space"] = {"granularity": "layer", "kinds": ["head"]}
    config = Config.from_data(data)
    found = check(config)
    search(config, tmp_path / "run")
    assert [item.name for item in found.dimensions] == _searched(tmp_path / "run")


def _searched(run: Path) -> list[str]:
    """The dimensions of a run's candidates."""
    return [*next(trial.parameters for trial in open_run(run).trials() if trial.parameters)]
