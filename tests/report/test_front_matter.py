"""What stands at the top of a card is what the hub's own classes read there, and is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from evomerge.models.card_facts import CardFacts, card_facts, task_of
from evomerge.models.private_paths import without_places
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.report.front_matter import About, TaskScore, front_matter
from evomerge.report.merge_card import merge_card

MODELS = {"base": ModelReference(path="org/base"), "maths": ModelReference(path="/data/maths")}


def test_the_hub_reads_every_field_and_the_scores() -> None:
    about = About(models={"base": CardFacts(license="mit", languages=("en",))}, license="apache-2.0", task="fill-mask")
    scores = [TaskScore(task="xcopa_sw", metric="acc,none", value=0.6, items=250, num_fewshot=3)]
    lines = front_matter("swahili: 7b", MODELS, about, is_merge=True, languages=["sw"], scores=scores)
    data = ModelCard("\n".join([*lines, "", "# x"]), ignore_metadata_errors=False).data
    assert (data.license, data.language, data.pipeline_tag) == ("apache-2.0", ["sw", "en"], "fill-mask")
    assert (data.base_model, data.base_model_relation, data.tags) == (["org/base"], "merge", ["merge", "evomerge"])
    (result,) = data.eval_results
    assert data.model_name == "swahili: 7b"
    assert (result.task_type, result.dataset_type, result.metric_type) == ("fill-mask", "xcopa_sw", "acc")
    assert (result.metric_value, result.metric_name, result.dataset_args) == (0.6, "acc,none", {"num_few_shot": 3})


def test_a_local_merge_is_named_by_the_models_that_it_is_of() -> None:
    about = About(models={"base": CardFacts(merged=("org/lost",)), "maths": CardFacts(merged=("org/a", "org/base"))})
    data = ModelCard("\n".join([*front_matter("x", MODELS, about, is_merge=True), "", "# x"])).data
    assert (data.base_model, data.base_model_relation) == (["org/base", "org/a"], "merge")


def test_a_licence_is_named_where_all_models_have_it_and_asked_for_elsewhere() -> None:
    def about(**licenses: str | None) -> About:
        return About(models={name: CardFacts(license=found) for name, found in licenses.items()})

    assert about(base="mit", maths="mit").license_for([*MODELS]) == "mit"
    assert about(base="mit", maths="mit").missing_license([*MODELS]) is None
    for unclear in (about(base="mit"), about(base="mit", maths="llama3"), about()):
        assert unclear.license_for([*MODELS]) is None
        assert "--license" in (unclear.missing_license([*MODELS]) or "")
        assert not any(line.startswith("license") for line in front_matter("x", MODELS, unclear, is_merge=True))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: mit\nlanguage:\n- sw\n- en\n---\n# x\n", CardFacts(license="mit", languages=("sw", "en"))),
        ("---\nlanguage: sw\nlicense: other\n---\n", CardFacts(languages=("sw",))),
        ("---\nlicense: [\n---\n", CardFacts()),
        ("# no front matter\n---\n", CardFacts()),
        ("---\nbase_model: [org/a, /data/b]\nbase_model_relation: merge\n---\n", CardFacts(merged=("org/a",))),
        ("---\nbase_model: [org/a]\nbase_model_relation: finetune\n---\n", CardFacts()),
        ("---\nbase_model: org/a\nbase_model_relation: merge\n---\n", CardFacts()),
        (None, CardFacts()),
    ],
)
def test_what_a_models_own_card_says_is_read_with_care(tmp_path: Path, text: str | None, found: CardFacts) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert card_facts(tmp_path) == found


def test_what_a_model_is_for_is_told_by_its_class_or_not_at_all() -> None:
    assert task_of({"architectures": ["LlamaForCausalLM"]}) == "text-generation"
    assert task_of({"architectures": ["LlamaModel"]}) is None
    assert task_of({}) is None


def test_the_card_of_a_merge_from_a_recipe_names_no_place_and_claims_no_search() -> None:
    recipe = Recipe(base=MODELS["base"], experts={"maths": MODELS["maths"]}, method="linear", groups=())
    card = merge_card(recipe, name="x", about=About(task="text-generation"))
    assert ModelCard(card).data.base_model == ["org/base"]
    assert "/data" not in card
    assert "search" not in card
    assert 'AutoModelForCausalLM.from_pretrained("x"' in card


def test_settings_that_are_passed_on_hold_no_path_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"_name_or_path": "/home/alice/base", "text_config": {"_name_or_path": "C:\\\\me\\\\x"}, "a": "/b"})
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "org/base"}))
    assert len(without_places(tmp_path)) == 1
    found = json.loads((tmp_path / "config.json").read_text())
    assert found == {"_name_or_path": "base", "text_config": {"_name_or_path": "x"}, "a": "/b"}
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"name_or_path": "org/base"}
