"""Forms that mergekit writes or accepts beside the plain one: they mean the same merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from evomerge.config.config import Config
from evomerge.errors import RecipeError
from evomerge.materialise.merger import Merger
from evomerge.mergekit.genome import genome_to_config
from evomerge.mergekit.read import read_mergekit
from evomerge.mergekit.settings import evaluate, joined, to_switch
from evomerge.models.open import open_models
from helpers.mergekit_files import ties


def plain(family: dict[str, Path], **changes: Any) -> dict[str, Any]:
    return {
        "merge_method": "ties",
        "base_model": str(family["base"]),
        "models": [
            {"model": str(family["a"]), "parameters": {"weight": [0.9, 0.2, 0.4], "density": 1.0}},
            {"model": str(family["b"]), "parameters": {"weight": 0.3}},
        ],
        "parameters": {"normalize": True, "int8_mask": True},
        "dtype": "float32",
        **changes,
    }


def in_slices(data: dict[str, Any]) -> list[Any]:
    """The slices that mergekit makes of `models`: all four layers, with the base at the end."""
    models = [*data["models"], {"model": data["base_model"]}]
    return [{"sources": [{**entry, "layer_range": [0, 4]} for entry in models]}]


def forms(family: dict[str, Path]) -> dict[str, dict[str, Any]]:
    data = plain(family)
    written = {key: value for key, value in data.items() if key not in {"models", "parameters"}}
    return {
        "as mergekit writes it": {
            **written,
            "modules": {"default": {"slices": in_slices(data)}},
            "parameters": {"int8_mask": 1.0, "normalize": 1.0},
        },
        "slices with numbers for switches": {
            **written,
            "slices": in_slices(data),
            "parameters": {"int8_mask": 1, "normalize": 1},
        },
        "a module of models": {**written, "modules": {"text": {"models": data["models"]}}, "parameters": {}},
        "modules alike": {
            **written,
            "modules": {name: {"models": data["models"]} for name in ("text_decoder", "vision_tower")},
        },
        "parameters of a module": {
            **written,
            "modules": {"default": {"models": data["models"], "parameters": {"normalize": 1.0}}},
            "parameters": {"normalize": 0.0, "density": 1},
        },
        "a name and a setting of earlier releases": {
            **data,
            "name": "mine",
            "parameters": {**data["parameters"], "embed_slerp": True},
        },
        "layers where none are read": {
            **data,
            "models": [{**entry, "layer_range": [0, 4]} for entry in data["models"]],
        },
    }


@pytest.mark.parametrize("form", list(forms({name: Path(name) for name in ("base", "a", "b")})))
def test_other_forms_of_a_merge_read_as_the_plain_one(family: dict[str, Path], form: str) -> None:
    assert read_mergekit(yaml.safe_dump(forms(family)[form])) == read_mergekit(yaml.safe_dump(plain(family)))


def test_a_switch_that_is_zero_is_off(family: dict[str, Path]) -> None:
    recipes = [
        read_mergekit(yaml.safe_dump(plain(family, parameters={"normalize": value}))) for value in (False, 0, 0.0)
    ]
    assert recipes[0].options["normalize"] is False
    assert recipes[1:] == recipes[:1] * 2


def test_a_modules_parameters_come_before_the_files_and_after_the_slices(family: dict[str, Path]) -> None:
    """As in mergekit's scopes: the slice's weight, or else the module's where it says one, or else the file's."""
    data = plain(family, models=None, merge_method="task_arithmetic", parameters={"weight": 0.7})
    sources = [{"model": str(family[name]), "layer_range": [0, 4]} for name in ("a", "b", "base")]
    sources[1]["parameters"] = {"weight": 0.25}
    module = {"slices": [{"sources": sources}], "parameters": {"weight": [{"filter": "mlp", "value": 0.2}]}}
    recipe = read_mergekit(yaml.safe_dump({**data, "modules": {"default": module}}))
    bound = Merger(open_models(recipe)).bind(recipe)
    for name, coefficients in bound.coefficients.items():
        assert list(coefficients["weight"]) == [0.2 if "mlp" in name else 0.7, 0.25], name


_SETTINGS = st.one_of(
    st.floats(0, 1),
    st.lists(st.floats(0, 1), max_size=3),
    st.lists(
        st.fixed_dictionaries(
            {"value": st.one_of(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1, max_size=3))},
            optional={"filter": st.sampled_from(["mlp", "attn", "*", None])},
        ),
        min_size=1,
        max_size=3,
    ),
)


@given(
    st.dictionaries(st.sampled_from(["weight", "density"]), _SETTINGS),
    st.dictionaries(st.sampled_from(["weight", "density"]), _SETTINGS),
    st.sampled_from(["model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]),
    st.floats(0, 1),
)
def test_joined_scopes_say_what_they_say_one_after_the_other(
    inner: dict[str, Any], outer: dict[str, Any], tensor: str, depth: float
) -> None:
    def said(scope: dict[str, Any], name: str) -> Any:
        return evaluate(scope[name], tensor, depth, "here", number=True) if name in scope else None

    for name in ("weight", "density"):
        expected = said(inner, name)
        assert said(joined(inner, outer), name) == (said(outer, name) if expected is None else expected)


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, 1, 0, 1.0, 0.0, "true", "False", "YES", "no", "on", "off", "t", "F", "y", "n", "1", "0"),
        *(2, 0.5, -1, "2", "maybe", "", None, [], float("nan")),
    ],
)
def test_switches_are_taken_as_pydantic_takes_them_for_mergekit(value: Any) -> None:
    try:
        expected = TypeAdapter(bool).validate_python(value)
    except ValidationError:
        with pytest.raises(RecipeError, match="here: expected true or false, got"):
            to_switch(value, "here")
    else:
        assert to_switch(value, "here") is expected


def test_numbers_for_switches_and_counts_of_a_genome_mean_what_they_are() -> None:
    def config(**values: Any) -> Config:
        genome = {"models": ["org/a", "org/b"], "merge_method": "ties", "base_model": "org/base"}
        flags = {key: values[key] for key in ("normalize", "allow_negative_weights", "smooth")}
        tasks = {"tasks": [{"name": "x", "weight": 1}], "limit": values["limit"], "shuffle": values["shuffle"]}
        text = yaml.safe_dump({"genome": {**genome, **flags, "layer_granularity": values["layers"]}, **tasks})
        return Config.from_yaml(genome_to_config(text, num_layers=8))

    usual = config(normalize=False, allow_negative_weights=True, smooth=False, layers=4, limit=100, shuffle=True)
    assert usual == config(normalize=0, allow_negative_weights=1, smooth=0, layers=4.0, limit=100.0, shuffle=1)
    assert usual == config(normalize=0.0, allow_negative_weights=1.0, smooth="no", layers=4, limit=100, shuffle="yes")


def test_a_range_of_layers_that_nobody_reads_is_told_of(family: dict[str, Path]) -> None:
    notes: list[str] = []
    read_mergekit(yaml.safe_dump(forms(family)["layers where none are read"]), report=notes.append)
    assert len(notes) == 2
    assert notes[0].startswith("models[0].layer_range: mergekit passes over it outside of slices, so all layers")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "modules: expected at least one module"),
        ({"a": {}}, r"modules\.a: expected either models or slices"),
        ({"a": {"models": [], "sources": []}}, r"modules\.a: unknown key 'sources'"),
        ({"a": {"models": [{"model": "x"}]}, "b": {"models": [{"model": "y"}]}}, "modules: a, b: .* in different ways"),
        ({"a": {"slices": [1]}, "b": {"slices": [1]}}, "modules: a, b: .* in different ways"),
        ([], r"modules: expected a mapping, got \[\]"),
        ({"a": 3}, r"modules\.a: expected a mapping, got 3"),
    ],
)
def test_modules_that_are_no_one_merge_are_refused(modules: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=f"merge.yaml: {message}"):
        read_mergekit(ties(models=None, modules=modules), where="merge.yaml")
