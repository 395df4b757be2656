"""Merge files of mergekit: what they become, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from evomerge.errors import RecipeError
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.mergekit.documents import named
from evomerge.mergekit.methods import COUNTERPARTS
from evomerge.mergekit.read import load_recipe, read_mergekit
from evomerge.methods import METHODS
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_family


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_family(tmp_path_factory.mktemp("family"), "llama", layers=4)


def ties(**changes: Any) -> str:
    data: dict[str, Any] = {
        "merge_method": "ties",
        "base_model": "org/base",
        "models": [
            {"model": "org/base"},
            {"model": "org/one", "parameters": {"weight": 0.5, "density": 0.3}},
            {"model": "org/two@v1", "parameters": {"weight": 0.25}},
        ],
        "parameters": {"normalize": False, "int8_mask": True},
        "dtype": "bfloat16",
    }
    return yaml.safe_dump({key: value for key, value in {**data, **changes}.items() if value is not None})


def sliced(*ranges: tuple[list[int], list[int]]) -> list[Any]:
    return [
        {
            "sources": [
                {"model": "org/base", "layer_range": first},
                {"model": "org/one", "layer_range": second, "parameters": {"weight": 1.0}},
            ]
        }
        for first, second in ranges
    ]


def test_a_plain_file_is_read_without_opening_a_model() -> None:
    assert read_mergekit(ties()) == Recipe(
        base=ModelReference(path="org/base"),
        experts={"one": ModelReference(path="org/one"), "two": ModelReference(path="org/two", revision="v1")},
        method="ties",
        options={"normalize": False, "election": "weighted", "trim": "tensor"},
        dtype="bfloat16",
        groups=(
            Group(
                name="all",
                coefficients={
                    "weight": {"one": 0.5, "two": 0.25},
                    "density": {"one": 0.3, "two": 1.0},
                    "scale": 1.0,
                },
            ),
        ),
    )


def test_models_of_one_name_get_names_of_their_own() -> None:
    models = [ModelReference(path=path) for path in ("x/Chat-7B-v0.1", "y/Chat-7B-v0.1", "/models/base/")]
    assert list(named(models)) == ["Chat-7B-v0_1", "Chat-7B-v0_1_2", "base_2"]


def test_values_over_depth_become_groups_of_layers(family: dict[str, Path]) -> None:
    text = yaml.safe_dump(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(family["base"]),
            "models": [{"model": str(family["a"]), "parameters": {"weight": [1.0, 0.0, 0.0]}}],
        }
    )
    read = read_mergekit(text)
    # Head and final norm take the first value, as in mergekit, and so stand apart from the last layer.
    found = {
        name: next(
            group.coefficients["weight"]["a"]
            for group in read.groups
            if group.contains(*Checkpoint.open(read.base).layout.place(name), name)
        )
        for name in (
            *("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"),
            *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)),
        )
    }
    assert list(found.values()) == pytest.approx([1.0, 1.0, 1.0, 1.0, 1 / 3, 0.0, 0.0])
    assert Recipe.from_yaml(read.to_yaml()) == read


def test_filters_become_groups_of_names_that_reach_the_merge(family: dict[str, Path], tmp_path: Path) -> None:
    text = yaml.safe_dump(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(family["base"]),
            "models": [{"model": str(family["a"]), "parameters": {"weight": [{"filter": "q_proj", "value": 1}]}}],
            "parameters": {"weight": 0},
        }
    )
    merged = load_file(write_folder(read_mergekit(text), tmp_path / "out") / "model.safetensors")
    base, expert = (load_file(family[name] / "model.safetensors") for name in ("base", "a"))
    for name, tensor in merged.items():
        assert tensor.equal(expert[name] if "q_proj" in name else base[name])


def test_a_recipe_without_names_keeps_its_key() -> None:
    recipe = Recipe(base=ModelReference(path="b"), experts={"a": ModelReference(path="a")}, method="linear")
    plain = dataclasses.replace(recipe, groups=(Group(name="all", layers=(0, 3)),))
    by_name = dataclasses.replace(recipe, groups=(Group(name="all", layers=(0, 3), names=("q_proj",)),))
    assert "names" not in plain.to_data()["groups"][0]
    assert plain.key() == "4f3f3ae2d472f343" != by_name.key()


def test_a_recipe_with_names_that_leave_a_tensor_out_is_refused(family: dict[str, Path]) -> None:
    recipe = Recipe(
        base=ModelReference(path=str(family["base"])),
        experts={"a": ModelReference(path=str(family["a"]))},
        method="task_arithmetic",
        groups=(Group(name="some", names=("proj",)),),
    )
    merger = Merger(Models(Checkpoint.open(recipe.base), {"a": Checkpoint.open(recipe.experts["a"])}))
    with pytest.raises(RecipeError, match="no group contains"):
        merger.bind(recipe)


def test_names_of_a_group_that_are_no_texts_are_refused() -> None:
    data = Recipe(
        base=ModelReference(path="b"),
        experts={"a": ModelReference(path="a")},
        method="linear",
        groups=(Group(name="all"),),
    ).to_data()
    data["groups"][0]["names"] = "q_proj"
    with pytest.raises(RecipeError, match=r"groups\[0\]\.names: expected a list of texts"):
        Recipe.from_data(data)


def test_a_file_of_either_kind_is_loaded_with_its_models_beside_it(family: dict[str, Path], tmp_path: Path) -> None:
    folder = family["base"].parent
    text = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n"
    (folder / "file.yaml").write_text(text)
    read = load_recipe(folder / "file.yaml")
    assert {name: Path(model.path) for name, model in read.experts.items()} == {"a": family["a"], "b": family["b"]}
    (folder / "recipe.yaml").write_text(read.to_yaml())
    assert load_recipe(folder / "recipe.yaml") == read


def test_a_filter_that_matches_no_tensor_is_reported(family: dict[str, Path]) -> None:
    def read(filters: list[str]) -> list[str]:
        weight = [*({"filter": text, "value": 0.2} for text in filters), {"filter": "*", "value": 0.5}, {"value": 0.7}]
        models = [
            {"model": "a", "parameters": {"weight": weight}},
            {"model": "b", "parameters": {"weight": [{"filter": "mlp", "value": 0.1}, {"value": 1}]}},
        ]
        notes: list[str] = []
        text = yaml.safe_dump({"merge_method": "linear", "models": models})
        read_mergekit(text, folder=family["base"].parent, report=notes.append)
        return notes

    assert read(["self_attn", "down_proj"]) == []
    assert read(["selfattn", "down_proj"]) == ["filter 'selfattn' occurs in no tensor's name; it has no effect"]


@pytest.mark.parametrize("counterpart", COUNTERPARTS, ids=lambda counterpart: counterpart.theirs)
def test_every_counterpart_names_a_method_with_its_coefficients_and_options(counterpart: Any) -> None:
    method = METHODS.get(counterpart.ours)
    coefficients = {number.ours for number in (*counterpart.per_model.values(), *counterpart.shared.values())}
    folded = {"scale"} if counterpart.folded else set()
    assert coefficients | set(counterpart.fixed) | folded >= {parameter.name for parameter in method.parameters}
    options = {switch.ours for switch in counterpart.switches.values()} - {None} | set(counterpart.options)
    found_otherwise = {"origin"} if counterpart.base == "optional" else {"model"}
    assert options | found_otherwise >= {option.name for option in method.options}


REFUSED = {
    "an unknown method": (ties(merge_method="tyes"), r"merge_method: unknown mergekit method 'tyes'.*'ties'"),
    "an unknown key": (ties(dtyp="x"), "unknown key 'dtyp'. Did you mean 'dtype'"),
    "modules": (ties(modules={"a": {}}, models=None), "modules: merging modules separately isn't supported"),
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


@pytest.mark.parametrize(
    ("method", "models", "base"),
    [
        ("task_arithmetic", ["org/base+org/lora", {"model": "org/base", "lora": "org/two@v2"}], "org/base"),
        ("passthrough", ["org/base+org/lora"], None),
    ],
)
def test_an_adapter_of_the_base_is_an_expert(method: str, models: list[Any], base: str | None) -> None:
    weights = {"weight": 1.0} if method == "task_arithmetic" else {}
    data = {"merge_method": method, "models": [{"model": model, "parameters": weights} for model in models]}
    found = read_mergekit(yaml.safe_dump({**data, **({} if base is None else {"base_model": base})}))
    expected = {"lora": ModelReference(path="org/lora"), "two": ModelReference(path="org/two", revision="v2")}
    assert found.base == ModelReference(path="org/base")
    assert found.experts == dict(list(expected.items())[: len(models)])


def test_layers_that_a_model_has_not_are_refused(family: dict[str, Path]) -> None:
    text = f"merge_method: passthrough\nslices: [{{sources: [{{model: {family['a']}, layer_range: [0, 5]}}]}}]\n"
    with pytest.raises(RecipeError, match=r"x\.yaml: slices\[0\]\.a: layers 0 to 4, but it has layers 0 to 3"):
        read_mergekit(text, where="x.yaml")


def test_slices_that_keep_every_layer_in_place_are_no_stack(family: dict[str, Path]) -> None:
    text = f"merge_method: passthrough\nslices: [{{sources: [{{model: {family['a']}, layer_range: [0, 4]}}]}}]\n"
    assert read_mergekit(text).slices == ()


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
