"""The demo: its language's facts, its questions, and a reduced build that is real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from evomerge.config.config import Config
from evomerge.demo.build import SMALL, Settings, build_demo, experiment_of, questions_of
from evomerge.demo.corpus import BASE, Corpus, questions
from evomerge.demo.language import PHRASINGS, all_sums, english, read_swahili, swahili
from evomerge.demo.train import Part, Schedule, Trainer, new_model, train_tokenizer
from evomerge.errors import RunError


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "sifuri"),
        (7, "saba"),
        (10, "kumi"),
        (12, "kumi na mbili"),
        (20, "ishirini"),
        (47, "arobaini na saba"),
        (99, "tisini na tisa"),
    ],
)
def test_swahili_numbers_are_those_of_a_grammar(number: int, words: str) -> None:
    assert swahili(number) == words


def test_number_words_are_distinct_and_read_back() -> None:
    assert [read_swahili(swahili(number)) for number in range(100)] == list(range(100))
    assert len({english(number) for number in range(100)}) == 100
    for wrong in ("mbili na kumi", "kumi na sifuri", "kumi kumi", "twelve"):
        with pytest.raises(ValueError, match="not a Swahili number"):
            read_swahili(wrong)


def test_no_sum_is_asked_in_two_roles_and_every_answer_is_right() -> None:
    sizes = {"search": 100, "validation": 80, "test": 360}
    pools = questions(12, sizes, seed=3, phrasings={"search": 1, "validation": 2})
    sums = {role: {question.answer for question in pool} for role, pool in pools.items()}
    assert {role: len(pool) for role, pool in pools.items()} == sizes
    assert {role: len(answers) for role, answers in sums.items()} == {"search": 100, "validation": 40, "test": 120}
    assert not sums["search"] & sums["validation"]
    assert not (sums["search"] | sums["validation"]) & sums["test"]
    asked = [question.question for pool in pools.values() for question in pool]
    assert len(set(asked)) == len(asked)
    for pool in pools.values():
        for question in pool:
            left, _, result = question.answer.partition(" = ")
            assert eval(left) == int(result)
            first, second = left.split(" + " if " + " in left else " - ")
            assert swahili(int(first)) in question.question
            assert swahili(int(second)) in question.question


@pytest.mark.parametrize(("settings", "items"), [(Settings(), "fresh"), (SMALL, "fixed")])
def test_the_experiment_is_valid_and_there_are_questions_for_it(settings: Settings, items: str) -> None:
    search = Config.model_validate(yaml.safe_load(experiment_of(settings, seed=7))).search
    assert (search.items, search.evaluations, search.seed) == (items, settings.evaluations, 7)
    asked = search.items_of_candidate(settings.search)
    assert asked == (settings.items_per_candidate or settings.search)
    pools = questions_of(settings, seed=7)
    assert {role: len(pool) for role, pool in pools.items()} == {
        "search": settings.search,
        "validation": settings.validation,
        "test": settings.test,
    }


def test_more_questions_than_there_are_sums_for_are_refused() -> None:
    with pytest.raises(ValueError, match="not enough sums of numbers up to 5"):
        questions(5, {"search": 58}, seed=0, phrasings={"search": 1})


def test_subtractions_stay_above_zero_and_each_operator_has_its_phrasings() -> None:
    assert all(each.result >= 0 for each in all_sums(12))
    assert {phrasing.operator for phrasing in PHRASINGS} == {"+", "-"}


@pytest.mark.parametrize("part", ["lower", "upper", "all"])
def test_a_lesson_changes_all_of_its_part_of_the_model_and_nothing_else(part: Part) -> None:
    corpus = Corpus((1.0, BASE), largest=5, seed=0, name="a lesson")
    examples = corpus.draw(100)
    tokenizer = train_tokenizer([example.prompt + example.answer for example in examples], 300)
    model = new_model(len(tokenizer), layers=2, hidden=16, seed=0)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    schedule = Schedule(learning_rate=1e-2, skills={"number": 2.0}, max_steps=2, cooldown=1, batch=8)
    trained = Trainer(tokenizer).train(model, corpus, {"number": examples[:1]}, schedule, part=part)

    def is_lower(name: str) -> bool:
        return "embed_tokens" in name or ".layers.0." in name

    changed = {name for name, weights in trained.state_dict().items() if not weights.equal(before[name])}
    assert changed == {name for name in before if part == "all" or is_lower(name) == (part == "lower")}
    assert all(weights.requires_grad for weights in trained.parameters())


@pytest.mark.slow
def test_a_reduced_build_is_complete_cached_and_reproducible(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stages: list[str] = []
    brief = replace(SMALL, base_steps=40, expert_steps=20, cooldown=5)
    path = build_demo(tmp_path / "one", settings=brief, progress=lambda stage, done, total: stages.append(stage))
    config = Config.from_file(path)
    for model in (config.models.base, *config.models.experts.values()):
        loaded = AutoModelForCausalLM.from_pretrained(model.path)
        tokenizer = AutoTokenizer.from_pretrained(model.path)
        assert len(tokenizer) == loaded.config.vocab_size
    manager = TaskManager(include_path=str(tmp_path / "one" / "tasks"), include_defaults=False)
    assert manager.all_tasks == ["swahili_sums"]
    assert dict.fromkeys(stages) == dict.fromkeys(
        ["training the base", "training the arithmetic expert", "training the swahili expert"]
    )

    def weights(folder: Path) -> dict[str, bytes]:
        return {
            name: tensor.numpy().tobytes()
            for name, tensor in load_file(folder / "experts/swahili/model.safetensors").items()
        }

    first = weights(tmp_path / "one")
    assert build_demo(tmp_path / "one", settings=brief, progress=lambda *_: pytest.fail("trained again")) == path
    with pytest.raises(RunError, match="another seed or size"):
        build_demo(tmp_path / "one", settings=brief, seed=1)

    # A build that was killed has no marker, and is made anew.
    (tmp_path / "one" / "demo.json").unlink()
    (tmp_path / "one" / "experts" / "swahili" / "model.safetensors").write_bytes(b"half")
    build_demo(tmp_path / "one", settings=brief)
    assert weights(tmp_path / "one") == first
    assert json.loads((tmp_path / "one" / "demo.json").read_text())["seed"] == 0
