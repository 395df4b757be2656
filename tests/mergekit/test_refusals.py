"""Merge files of mergekit that are refused, by the name of what is not supported."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evomerge.errors import RecipeError
from evomerge.mergekit.read import load_recipe, read_mergekit
from helpers.mergekit_files import sliced, ties

REFUSED = {
    "an unknown method": (ties(merge_method="tyes"), r"merge_method: unknown mergekit method 'tyes'.*'ties'"),
    "an unknown key": (ties(dtyp="x"), "unknown key 'dtyp'. Did you mean 'dtype'"),
    "models and modules": (ties(modules={"a": {}}), "expected one of models, slices and modules"),
    "several merges": (f"{ties()}---\n{ties()}", "holds 2 documents, separated by ---"),
    "both forms": (ties(slices=[{}]), "expected either models or slices"),
    "another tokenizer": (ties(tokenizer_source="org/one"), r"tokenizer_source: 'org/one': expected base or union"),
    "two tokenizers": (ties(tokenizer_source="base", tokenizer={}), "either that or tokenizer, not both"),
    "rows of tokens": (ties(tokenizer={"source": "base", "tokens": {"x": {}}}), "tokenizer.tokens: choosing rows"),
    "padding": (ties(tokenizer={"pad_to_multiple_of": 8}), "tokenizer.pad_to_multiple_of: isn't supported"),
    "a chat template": (ties(chat_template="auto"), "chat_template: replacing it isn't supported"),
    "an unknown dtype": (ties(out_dtype="int8"), "out_dtype: unknown dtype 'int8'"),
    "a base with an adapter": (
        ties(base_model="org/base+org/lora"),
        "base_model: org/base with the adapter org/lora: adding an adapter isn't supported here",
    ),
    "an adapter of another model than the base": (
        ties(models=[{"model": "org/one+org/lora", "parameters": {"weight": 1}}]),
        r"models\[0\]\.model: the adapter org/lora is added to org/one, .* another model than the base \(org/base\)",
    ),
    "two adapters": (ties(models=[{"model": "org/base+org/one+org/two"}]), r"models\[0\]\.model: .* more than one \+"),
    "another architecture": (
        ties(models=[{"model": {"model": "org/one", "override_architecture": "X"}}]),
        r"models\[0\]\.model\.override_architecture: isn't supported",
    ),
    "a model without a path": (
        ties(models=[{"model": {"model": {"revision": "v1"}}}]),
        r"models\[0\]\.model\.model\.path",
    ),
    "a density above 1": (
        ties(parameters={"density": 1.5}),
        r"parameters\.density: expected a finite number from 0 to 1, got 1\.5",
    ),
    "a model's density below 0": (
        ties(models=[{"model": "org/one", "parameters": {"weight": 1, "density": -0.5}}]),
        r"models\[0\]\.parameters\.density: expected a finite number from 0 to 1, got -0\.5",
    ),
    "a weight that is no number": (
        ties(models=[{"model": "org/one", "parameters": {"weight": float("nan")}}]),
        r"models\[0\]\.parameters\.weight: expected a finite number, got nan",
    ),
    "a factor without end": (
        ties(parameters={"lambda": float("inf")}),
        r"parameters\.lambda: expected a finite number",
    ),
    "part of a step": (
        ties(merge_method="karcher", models=[{"model": "org/one"}], parameters={"max_iter": 2.5}),
        r"parameters\.max_iter: expected a whole number of at least \d+, got 2\.5",
    ),
    "a tolerance below 0": (
        ties(merge_method="karcher", models=[{"model": "org/one"}], parameters={"tol": -1}),
        r"parameters\.tol: expected a finite number of at least 0, got -1",
    ),
    "a missing base": (ties(base_model=None), "base_model: missing; ties needs it"),
    "a model twice": (
        ties(models=[{"model": "org/one"}, {"model": "org/one"}]),
        r"models\[1\]: org/one is listed twice",
    ),
    "a missing weight": (ties(models=[{"model": "org/one"}]), "parameters.weight: missing for org/one"),
    "a parameter of another method": (ties(parameters={"t": 0.5}), r"parameters: unknown parameter 't'.*passes over"),
    "a shared parameter of a model": (
        ties(models=[{"model": "org/one", "parameters": {"weight": 1, "lambda": 2}}]),
        r"models\[0\]\.parameters\.lambda: is no model's own",
    ),
    "a setting without counterpart": (ties(parameters={"rescale": True}), "parameters.rescale: True isn't supported"),
    "a word for a number": (ties(parameters={"lambda": "much"}), "parameters.lambda: expected a number, got 'much'"),
    "a number for a switch": (ties(parameters={"normalize": 3}), "parameters.normalize: expected true or false, got 3"),
    "values mixed with filters": (
        ties(parameters={"lambda": [1, {"value": 1}]}),
        "either values over depth or filters",
    ),
    "a filter without value": (ties(parameters={"lambda": [{"filter": "mlp"}]}), "a filter needs a value"),
    "layers that end before they start": (
        ties(models=None, slices=sliced(([2, 2], [2, 2]))),
        r"slices\[0\]\.sources\[0\]\.layer_range: expected \[first, end\], end not included, got \[2, 2\]",
    ),
    "unequal numbers of layers": (
        ties(models=None, slices=sliced(([0, 2], [0, 2]), ([2, 4], [1, 4]))),
        r"slices\[1\]\.sources: 2 and 3 layers; a slice needs as many of each",
    ),
    "scaled residuals": (
        ties(models=None, slices=[{**sliced(([0, 4], [0, 4]))[0], "residual_weight": 0.5}]),
        r"slices\[0\]\.residual_weight: isn't supported",
    ),
    "a slice without one of the models": (
        ties(
            merge_method="sce",
            models=None,
            slices=[*sliced(([0, 2], [0, 2])), {"sources": [{"model": "org/base", "layer_range": [2, 4]}]}],
        ),
        r"slices\[1\]\.sources: other models than in slices\[0\]; sce needs every model in every slice",
    ),
    "a slice without the base": (
        ties(
            models=None,
            slices=[*sliced(([0, 2], [0, 2])), {"sources": [{"model": "org/one", "layer_range": [2, 4]}]}],
        ),
        r"slices: base_model org/base is to be among the sources of every slice",
    ),
    "several models to pass through": (
        "merge_method: passthrough\nslices:\n"
        "- sources: [{model: org/one, layer_range: [0, 3]}, {model: org/two, layer_range: [0, 3]}]\n",
        r"slices\[0\]\.sources: passthrough takes exactly one model, got 2",
    ),
    "what isn't YAML": ("models: [", "not valid YAML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(case: str) -> None:
    text, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message) as error:
        read_mergekit(text, where="merge.yaml")
    assert str(error.value).startswith("merge.yaml: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("genome: {models: [a]}\ntasks: [{name: x}]\n", "is a search of mergekit-evolve; .*: evomerge init OUT --from"),
        ("base_model: a\ngate_mode: hidden\nexperts: []\n", r"\(mergekit-moe\), which isn't supported"),
        ("models: {base: a}\nbenchmark: {tasks: []}\n", "is the config of a search; run it with: evomerge search"),
    ],
)
def test_other_files_around_merging_are_told_apart_from_recipes(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(RecipeError, match=rf"other\.yaml: .*{message}"):
        load_recipe(tmp_path / "other.yaml")


def test_layers_that_a_model_has_not_are_refused(family: dict[str, Path]) -> None:
    text = f"merge_method: passthrough\nslices: [{{sources: [{{model: {family['a']}, layer_range: [0, 5]}}]}}]\n"
    with pytest.raises(RecipeError, match=r"x\.yaml: slices\[0\]\.a: layers 0 to 4, but it has layers 0 to 3"):
        read_mergekit(text, where="x.yaml")


def test_a_switch_that_differs_between_tensors_is_refused(family: dict[str, Path]) -> None:
    text = yaml.safe_dump(
        {
            "merge_method": "linear",
            "models": [{"model": str(family["a"])}],
            "parameters": {"weight": 1, "normalize": [{"filter": "mlp", "value": True}, {"value": False}]},
        }
    )
    with pytest.raises(RecipeError, match="normalize: False, True for different tensors"):
        read_mergekit(text)
