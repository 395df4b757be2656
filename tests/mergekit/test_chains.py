"""Merges whose models are merges of other files or of other documents, ours and mergekit's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.errors import ExportError, RecipeError
from evomerge.mergekit.several import several_merges
from evomerge.mergekit.write import to_mergekit
from evomerge.recipe.recipe import Recipe
from evomerge.study.merge import merge


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}


def ours(base: str | Path, weight: float = 0.5, name: str | None = None, **experts: str | Path) -> dict[str, Any]:
    return {
        "evomerge": 1,
        **({} if name is None else {"name": name}),
        "models": {"base": str(base), "experts": {role: str(path) for role, path in experts.items()}},
        "method": "task_arithmetic",
        "groups": [{"name": "all", "coefficients": {"weight": weight}}],
    }


def written(path: Path, *documents: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def chain(tmp_path: Path, family: dict[str, Path]) -> Path:
    """A recipe over one of mergekit, over a document of its own file and over a recipe of another folder."""
    written(
        tmp_path / "deep" / "lower.yaml", ours(os.path.relpath(family["base"], tmp_path / "deep"), 0.5, a=family["a"])
    )
    models = [{"model": "deep/lower.yaml"}, {"model": str(family["b"])}]
    middle = {"merge_method": "linear", "models": models, "parameters": {"weight": 0.5}}
    written(tmp_path / "middle.yml", middle)
    return written(
        tmp_path / "chain.yaml",
        ours(family["base"], 0.25, name="own", c=family["c"]),
        ours(family["base"], 1.0, m="middle.yml", o="own"),
    )


def test_each_merge_is_that_of_the_results_of_those_that_it_names(
    tmp_path: Path, family: dict[str, Path], chain: Path
) -> None:
    assert [step.name for step in several_merges(chain)] == ["own", "lower", "middle", None]
    out = merge(Recipe.from_data(ours(chain, 0.5, m=chain)), tmp_path / "twice" / "out").parent / "out-chain"
    base, a, b, c = (weights(family[name]) for name in ("base", "a", "b", "c"))

    def stored(tensor: Tensor) -> Tensor:
        return tensor.float().double()

    found, whole = weights(out), weights(tmp_path / "twice" / "out")
    for name, tensor in found.items():
        lower = stored(base[name] + 0.5 * (a[name] - base[name]))
        middle = stored((lower + b[name]) / 2)
        own = stored(base[name] + 0.25 * (c[name] - base[name]))
        expected = base[name] + (middle - base[name]) + (own - base[name])
        assert torch.equal(tensor, stored(expected)), name
        assert torch.equal(whole[name], tensor)
    assert Recipe.from_file(out / "recipe.yaml").experts["m"].path == str(tmp_path / "twice" / "out-middle")


def test_a_result_that_is_older_than_what_it_merges_is_not_taken(tmp_path: Path, chain: Path) -> None:
    merge(chain, tmp_path / "out").rename(tmp_path / "first")
    recipe = tmp_path / "out-lower" / "recipe.yaml"
    later = (tmp_path / "out-middle" / "recipe.yaml").stat().st_mtime_ns + 1
    os.utime(recipe, ns=(later, later))
    with pytest.raises(ExportError, match="out-middle: is older than out-lower, which it merges; remove it"):
        merge(chain, tmp_path / "out")


def test_check_lists_the_merges_and_makes_none(tmp_path: Path, family: dict[str, Path], chain: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["check", str(chain)])
    assert result.exit_code == 0, result.output
    rows = [line.split()[:4] for line in result.output.splitlines() if line.startswith("OUT")]
    assert [row[:2] for row in rows] == [
        ["OUT-own", "task_arithmetic"],
        ["OUT-lower", "task_arithmetic"],
        ["OUT-middle", "linear"],
        ["OUT", "task_arithmetic"],
    ]
    assert rows[-1][2:] == ["middle,", "own"]
    assert "No mistake was found. Next: evomerge merge" in result.output
    assert sorted(tmp_path.rglob("*")) == before
    text = chain.read_text().replace("weight: 1.0", "wait: 1.0")
    chain.write_text(text)
    result = CliRunner().invoke(app, ["check", str(chain)])
    assert (result.exit_code, f"{chain}: document 2: groups[0]" in result.output) == (1, True), result.output


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({"x": [ours("base", x="x.yaml")]}, r"x\.yaml: merges x\.yaml, which is made from its result"),
        (
            {"x": [ours("y.yaml", a="a")], "y": [ours("base", a="x.yaml")]},
            r"y\.yaml: merges x\.yaml, which is made from",
        ),
        ({"x": [ours("y.yaml", a="a")]}, r"x\.yaml: y\.yaml: no such file"),
        ({"x": [ours("y.yaml", a="a")], "y": [{"benchmark": {}}]}, r"y\.yaml: is the config of a search"),
    ],
)
def test_chains_that_cannot_be_made_are_refused(
    tmp_path: Path, documents: dict[str, list[dict[str, Any]]], message: str
) -> None:
    for name, parts in documents.items():
        written(tmp_path / f"{name}.yaml", *parts)
    with pytest.raises(RecipeError, match=message):
        several_merges(tmp_path / "x.yaml")


def test_mergekit_has_no_words_for_a_model_that_is_a_file(tmp_path: Path, family: dict[str, Path], chain: Path) -> None:
    with pytest.raises(RecipeError, match=r"models\.experts\.m: .*chain\.yaml is another merge"):
        to_mergekit(Recipe.from_data(ours(family["base"], m=chain)))
