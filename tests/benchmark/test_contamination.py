"""Near duplicates between roles: found, named, refused or dropped; public splits that are searched on are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from evomerge.benchmark.contamination import Text, near_duplicates, sentences, strings
from evomerge.benchmark.lm_eval.benchmark import Benchmark
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.errors import BenchmarkError
from helpers.search import write_task

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def pairs(**roles: list[str]) -> list[tuple[str, str, str, str]]:
    made = {
        role: [Text(f"{role}{place}", "t", text) for place, text in enumerate(texts)] for role, texts in roles.items()
    }
    return [(each.role, each.item.id, each.other_role, each.other.id) for each in near_duplicates(made)]


def test_thirteen_words_in_a_row_make_a_near_duplicate_and_twelve_do_not() -> None:
    thirteen, twelve = " ".join(LONG.split()[:13]), " ".join(LONG.split()[:12])
    for part, alike in ((thirteen, True), (twelve, False)):
        found = pairs(search=[f"Quite another start. {part.upper()}, then more!"], test=[f"Begin: {LONG}."])
        assert found == ([("search", "search0", "test", "test0")] if alike else [])


def test_short_texts_are_alike_as_a_whole_whatever_their_case_spaces_and_marks() -> None:
    assert pairs(search=["What is  2 + 3?"], test=["what is: 2 + 3"]) == [("search", "search0", "test", "test0")]
    assert pairs(search=["What is 2 + 4?"], test=["What is 2 + 3?"]) == []
    assert pairs(search=["What is 2 - 3?"], test=["What is 2 + 3?"]) == []


def test_texts_without_spaces_are_compared_by_characters() -> None:
    sentence = "".join(chr(0x3042 + place % 80) for place in range(60))
    assert pairs(search=["天気" + sentence], test=[sentence + "明日"]) == [("search", "search0", "test", "test0")]
    assert pairs(search=["天気" + sentence[:40] + "雨" * 30], test=[sentence + "明日"]) == []


def test_the_most_precious_role_is_named_and_repeats_within_a_role_are_none() -> None:
    found = pairs(search=["a b", "a b", "c"], validation=["c", "a b"], test=["a b"])
    assert ("search", "search0", "test", "test0") in found
    assert ("validation", "validation1", "test", "test0") in found
    assert ("search", "search2", "validation", "validation0") in found
    assert len(found) == 4


@given(
    st.lists(st.text(alphabet="ab ", max_size=6), max_size=6), st.lists(st.text(alphabet="ab ", max_size=6), max_size=6)
)
def test_short_texts_match_as_sets_of_their_words(search: list[str], test: list[str]) -> None:
    normal = [{tuple(text.split()) for text in texts if text.split()} for texts in (search, test)]
    expected = sum(tuple(text.split()) in normal[1] for text in search if text.split())
    assert len(pairs(search=search, test=test)) == expected


def test_sentences_count_and_name_some() -> None:
    made = {role: [Text(f"{role}{n}", "t", f"text {n}") for n in range(7)] for role in ("search", "test")}
    (sentence,) = sentences(near_duplicates(made))
    assert sentence.startswith("7 search items nearly repeat test items")
    assert "search0 of t (test0 of t)" in sentence
    assert "and 4 more" in sentence
    assert strings({"q": "a", "n": 3, "c": ["b", {"d": "e"}]}) == "a 3 b e"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny task, with one validation question that nearly repeats a test question."""
    made = write_task(tmp_path / "tasks")
    rows = [json.loads(line) for line in (made / "test.jsonl").read_text().splitlines()]
    with (made / "validation.jsonl").open("a") as file:
        file.write(json.dumps({**rows[3], "question": rows[3]["question"].upper().replace("?", "!")}) + "\n")
    return made


def build(folder: Path, model: Path, **settings: Any) -> Benchmark:
    splits = {"search": {"split": "validation", "fraction": 0.9}, "validation": {"split": "validation", "items": 2}}
    config = BenchmarkConfig.model_validate(
        {"tasks": ["tiny_choice"], "include_path": str(folder), "splits": {**splits, "test": "test"}, **settings}
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    return Benchmark.build(config, tokenizer, model_config=json.loads((model / "config.json").read_text()))


def test_a_near_duplicate_is_told_refused_or_dropped(folder: Path, tiny_llama: dict[str, Path]) -> None:
    told = build(folder, tiny_llama["base"])
    (sentence,) = told.notes
    assert "item nearly repeats test items" in sentence
    assert told.describe()["near_duplicates"] == 1
    (task,) = told.describe()["tasks"]
    assert task["tested"] == {"split": "test", "is_stock": True, "is_whole": True, "documents": []}
    with pytest.raises(BenchmarkError, match=r"benchmark\.near_duplicates: 1 \w+ item nearly repeats"):
        build(folder, tiny_llama["base"], near_duplicates="refuse")
    dropped = build(folder, tiny_llama["base"], near_duplicates="drop")
    assert dropped.notes == []
    counts = [sum(map(len, made.splits.values())) for made in (told, dropped)]
    assert counts[0] - counts[1] == 1
    assert len(dropped.splits["test"]) == len(told.splits["test"])


def test_a_public_split_that_is_searched_on_is_named(folder: Path, tiny_llama: dict[str, Path]) -> None:
    assert build(folder, tiny_llama["base"]).searched_publicly == []
    public = build(folder, tiny_llama["base"], splits={"search": 0.4, "validation": 0.3, "test": 0.3})
    assert public.searched_publicly == [
        "tiny_choice: search and validation items are of its 'test' split, which lm-eval evaluates: a score on that "
        "whole split isn't held out for the merge; only the test items here are"
    ]
