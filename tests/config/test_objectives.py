"""`search.objectives` and `search.constraints`: short forms, and what is refused with the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.errors import ConfigError


def config(**search: Any) -> Config:
    return Config.from_data(
        {
            "models": {"base": "some/base", "experts": {"maths": "some/maths", "swahili": "some/swahili"}},
            "benchmark": {"tasks": ["sw", "yo", "en"]},
            "search": search,
        },
        where="x.yaml",
    )


def test_short_forms_mean_the_same_as_long_ones() -> None:
    short = {"one": "sw", "two": ["sw", "yo"], "low": {"worst": ["sw", "yo"]}, "long": {"length": "all"}}
    long = {
        "one": {"tasks": {"sw": None}},
        "two": {"tasks": {"sw": None, "yo": None}},
        "low": {"worst": {"sw": ["sw"], "yo": ["yo"]}},
        "long": {"length": []},
    }
    assert config(objectives=short) == config(objectives=long)
    again = Config.from_yaml(config(objectives=short, constraints={"one": {"at_least": 0.5}}).to_yaml())
    assert again.identity() == config(objectives=short, constraints={"one": {"at_least": 0.5}}).identity()


def test_without_objectives_and_constraints_an_experiment_is_what_it_was() -> None:
    search = config().identity()["search"]
    assert not {"objectives", "constraints"} & {*search}
    assert config(objectives={"one": "sw"}).identity()["search"] != search


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"objectives": {"a": {}}}, "search.objectives.a: nothing is measured; give one of tasks, worst, length, dist"),
        (
            {"objectives": {"a": {"tasks": "sw", "length": "all"}}},
            "search.objectives.a: tasks and length are given; give one of",
        ),
        ({"objectives": {"a": []}}, "search.objectives.a: tasks names none"),
        ({"objectives": {"a": {"tasks": {"sw": 1, "yo": None}}}}, "some have a weight and some have none"),
        ({"objectives": {"a": {"tasks": {"sw": 0}}}}, "must be above 0"),
        ({"objectives": {"a": {"worst": ["sw"]}}}, "worst is the lowest of several scores; name two tasks or more"),
        ({"objectives": {"a:b": "sw"}}, "name 'a:b': use letters, digits"),
        ({"objectives": {"a": {"tasks": "sw", "weight": 1}, "b": "yo"}}, "some have a weight and some have none"),
        ({"objectives": {"a": {"distance": "math"}}}, r"search.objectives.a.distance: unknown model 'math'. Did you"),
        ({"objectives": {"a": {"task": "sw"}}}, r"search.objectives.a.task: unknown key 'task'. Did you mean 'tasks'"),
        (
            {"constraints": {"en": {"tasks": "en"}}},
            "there is no bound; give one of at_least, at_most, worse_by",
        ),
        ({"constraints": {"en": {"tasks": "en", "at_least": 0.5, "at_most": 1}}}, "at_least and at_most are given"),
        (
            {"constraints": {"en": {"tasks": "en", "worse_by_at_most": 0.1}}},
            "worse_by_at_most and than belong",
        ),
        ({"constraints": {"en": {"at_least": 0.5}}}, "en says not what it is of; give it one of tasks"),
        (
            {"objectives": {"en": "en"}, "constraints": {"en": {"tasks": "sw", "at_least": 0.5}}},
            "en is also an objective's name; leave out its tasks, or rename it",
        ),
        (
            {"constraints": {"en": {"tasks": "en", "worse_by_at_most": 0.1, "than": "bse"}}},
            r"search.constraints.en.than: unknown model 'bse'. Did you mean 'base'\?",
        ),
        (
            {"objectives": {"a": "sw", "b": "yo"}, "pruner": "median", "block": 10},
            "pruner 'median' goes by the benchmark's score of a part of the items, and objectives are given; use",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_remedy(search: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^x\.yaml: .*{words}"):
        config(**search)
