"""Recipes that fit their models, and what is said of those that don't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import CheckpointError, RecipeError
from evomerge.materialise.merger import Merger
from evomerge.methods.declared import build_method
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_checkpoint
from helpers.weighted import everywhere, merger_of, recipe_of

pytestmark = pytest.mark.usefixtures("stand_ins")


def test_groups_without_tensors_and_an_expert_that_is_the_base_are_noted(tiny_llama: dict[str, Path]) -> None:
    references = {name: ModelReference(path=str(tiny_llama[name])) for name in ("base", "a")}
    base = Checkpoint.open(references["base"])
    merger = Merger(Models(base, {"copy": Checkpoint.open(references["base"]), "a": Checkpoint.open(references["a"])}))
    groups = (Group(name="typo", names=("selfattn",)), Group(name="mlp", kinds=("mlp",)), Group(name="rest"))
    recipe = Recipe(
        base=references["base"],
        experts={"copy": references["base"], "a": references["a"]},
        method="task_arithmetic",
        groups=(*groups, Group(name="shadowed", layers=(0, 0))),
    )
    assert merger.notes(merger.bind(recipe)) == [
        "group 'typo' contains no tensor that no earlier group contains; it has no effect",
        "group 'shadowed' contains no tensor that no earlier group contains; it has no effect",
        "expert 'copy' is the base itself; its task vector is zero",
    ]
    assert merger.notes(merger.bind(replace(recipe, method="linear", groups=groups[1:]))) == []
    karcher = replace(recipe, method="karcher", groups=groups[1:])
    assert karcher.options.get("origin", "zero") == "zero"
    assert merger.notes(merger.bind(karcher)) == []
    assert merger.notes(merger.bind(replace(karcher, options={"origin": "base"}))) == [
        "expert 'copy' is the base itself; its task vector is zero"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "wieghted"}, r"method: unknown merge method 'wieghted'\. Did you mean 'weighted'\?"),
        ({"method": "weighted", "options": {"mod": 1}}, r"options: unknown option 'mod'\. Did you mean 'mode'\?"),
        ({"options": {"mode": "loud"}}, r"options\.mode: 'loud' is none of 'plain', 'negated'"),
        ({"options": {"floor": 2}}, r"options\.floor: 2 is above 1"),
        ({"options": {"floor": -0.5}}, r"options\.floor: -0\.5 is below 0"),
        ({"options": {"floor": float("nan")}}, r"options\.floor: nan is not a finite number"),
        ({"options": {"floor": True}}, r"options\.floor: expected float, got True"),
        ({"options": {"rounds": 1.5}}, r"options\.rounds: expected int, got 1\.5"),
        ({"options": {"sure": 1}}, r"options\.sure: expected bool, got 1"),
        ({"dtype": "int8"}, r"dtype: unknown dtype 'int8'.*Available: auto, bfloat16"),
        ({"method": "chosen", "groups": (), "options": {"model": "zzz"}}, r"options\.model: 'zzz' is no model"),
        ({"groups": ()}, r"no group contains .*lm_head.* more; add a last group"),
        (
            {"groups": (Group(name="m", kinds=("mlp",), coefficients={"weight": 1.0}),)},
            r"no group contains lm_head\.weight, model\.embed_tokens\.weight",
        ),
        (
            {"groups": (Group(name="late", layers=(1, 24)), Group(name="rest"))},
            r"groups\[0\] \(late\): layers: \[1, 24\] goes beyond the models' last layer, \d+; both ends are included",
        ),
        (
            {"groups": (Group(name="g", coefficients={"wieght": 1.0}),)},
            r"groups\[0\] \(g\): coefficients: unknown coefficient 'wieght'\. Did you mean 'weight'",
        ),
        (
            {"groups": (everywhere(weight=-3.0),)},
            r"groups\[0\] \(all\): coefficients\.weight: -3 is below -2, the least",
        ),
        ({"groups": (everywhere(scale=-1.0),)}, r"coefficients\.scale: -1 is below 0"),
        ({"groups": (everywhere(scale={"a": 1.0, "b": 1.0}),)}, r"scale: one number for all experts"),
        ({"groups": (everywhere(weight={"a": 1.0}),)}, r"weight: expected one value for each of a, b"),
        ({"groups": (everywhere(weight=float("inf")),)}, r"weight: inf is not a finite number"),
        ({"experts": {"b": ..., "a": ...}}, r"experts: names b, a, but the models at hand are a, b, in this order"),
        ({"method": "pair", "experts": {"a": ...}}, r"pair merges at least 2, got 1"),
        ({"method": "pair", "experts": {"a": ..., "b": ..., "c": ...}}, r"pair merges at most 2, got 3"),
    ],
)
def test_each_fault_of_a_recipe_is_named_with_its_place(
    tiny_llama: dict[str, Path], llama: Merger, changes: dict[str, Any], message: str
) -> None:
    good = recipe_of(tiny_llama, everywhere(weight=0.5))
    llama.bind(good)
    fields = {
        "base": good.base,
        "experts": good.experts,
        "method": good.method,
        "groups": good.groups,
        **changes,
    }
    fields["experts"] = dict.fromkeys(fields["experts"], good.base)
    bad = Recipe(**fields)
    with pytest.raises(RecipeError, match=message):
        llama.bind(bad)
    with pytest.raises(RecipeError, match=message):
        llama.write(llama.bind(bad), {})
    with pytest.raises(RecipeError, match=message):
        llama.bind(bad)


def test_defaults_of_options_are_filled_in(tiny_llama: dict[str, Path]) -> None:
    recipe = recipe_of(tiny_llama, options={"floor": 1})
    method = build_method(recipe.method, recipe.options, experts=tuple(recipe.experts), seed=recipe.seed)
    assert method.option == {"mode": "plain", "floor": 1.0, "rounds": 1, "sure": True}


def test_models_that_dont_fit_are_refused_before_any_work(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    deep = tiny_checkpoint(tmp_path / "deep", layers=3)
    with pytest.raises(CheckpointError, match=r"expert 'deep'.*has 3 layers"):
        merger_of({"base": tiny_llama["base"], "deep": deep})


def test_passthrough_of_an_unknown_model_is_refused(tiny_llama: dict[str, Path], llama: Merger) -> None:
    with pytest.raises(RecipeError, match=r"unknown model 'c'.*Available: a, b, base"):
        llama.bind(recipe_of(tiny_llama, method="passthrough", options={"model": "c"}))
