"""The demo: its language's facts, its questions, and a reduced build that is real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.demo.build import SMALL, build_demo
from evomerge.demo.corpus import questions
from evomerge.demo.language import PHRASINGS, all_sums, english, read_swahili, swahili
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
    pools = questions(12, {"search": 180, "validation": 120, "test": 450}, seed=3)
    sums = {role: {question.answer for question in pool} for role, pool in pools.items()}
    assert [len(pool) for pool in pools.values()] == [180, 120, 450]
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


def test_subtractions_stay_above_zero_and_each_operator_has_its_phrasings() -> None:
    assert all(each.result >= 0 for each in all_sums(12))
    assert {phrasing.operator for phrasing in PHRASINGS} == {"+", "-"}


@pytest.mark.slow
def test_a_reduced_build_is_complete_cached_and_reproducible(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stages: list[str] = []
    path = build_demo(tmp_path / "one", settings=SMALL, progress=lambda stage, done, total: stages.append(stage))
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
    assert build_demo(tmp_path / "one", settings=SMALL, progress=lambda *_: pytest.fail("trained again")) == path
    with pytest.raises(RunError, match="another seed or size"):
        build_demo(tmp_path / "one", settings=SMALL, seed=1)

    # A build that was killed has no marker, and is made anew.
    (tmp_path / "one" / "demo.json").unlink()
    (tmp_path / "one" / "experts" / "swahili" / "model.safetensors").write_bytes(b"half")
    build_demo(tmp_path / "one", settings=SMALL)
    assert weights(tmp_path / "one") == first
    assert json.loads((tmp_path / "one" / "demo.json").read_text())["seed"] == 0
