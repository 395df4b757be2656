"""What is said of a config before its search starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.config.search import SearchConfig
from evomerge.study.advice import own_cost, warnings_of


def test_an_algorithm_whose_cost_grows_says_what_it_comes_to_and_others_say_nothing() -> None:
    (found,) = own_cost(SearchConfig(algorithm="tpe"), dimensions=200, candidates=10_000)
    # 1.6 us for each dimension and candidate before: 3.2 s at the end, and half of that on average.
    assert "the last of 10,000 takes it about 3 s" in found
    assert "all of them about 4.4 h" in found
    assert own_cost(SearchConfig(algorithm="tpe"), dimensions=20, candidates=200) == []
    assert own_cost(SearchConfig(algorithm="gp"), dimensions=20, candidates=200)
    assert own_cost(SearchConfig(), dimensions=200, candidates=10_000) == []


@dataclass(frozen=True)
class Question:
    id: str
    cluster: str
    task: str = "sums"


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        (1, "40 validation and 120 test items: an accuracy near 50% is known to ± 15 points, so"),
        (
            4,
            "40 validation and 120 test items in 10 and 30 clusters: where those of a cluster go together, an accuracy "
            "near 50% is known to ± 31 points, so",
        ),
    ],
)
def test_how_well_an_accuracy_is_known_goes_by_what_does_not_depend_on_each_other(
    each: int, expected: str, tiny_llama: dict[str, Path]
) -> None:
    config = Config.model_validate(
        {
            "models": {"base": str(tiny_llama["base"]), "experts": {"a": str(tiny_llama["a"])}},
            "benchmark": {"tasks": ["sums"]},
        }
    )
    sizes = {"search": 200, "validation": 40, "test": 120}
    splits = {
        split: [Question(str(number), f"{split} {number // each}") for number in range(size)]
        for split, size in sizes.items()
    }
    (found,) = [sentence for sentence in warnings_of(config, 8, splits) if "validation" in sentence]
    assert found.startswith(expected)
