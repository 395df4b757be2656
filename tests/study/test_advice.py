"""What is said of a config before its search starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.config.search import SearchConfig
from evomerge.study.advice import lack_of_memory, own_cost, warnings_of


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


def test_workers_that_the_memory_of_their_machine_cannot_hold_are_told_of(
    tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.study.advice.bytes_with_swap", lambda: 10 * 10**9)

    def told(**execution: object) -> list[str]:
        models = {"base": str(tiny_llama["base"]), "experts": {"a": str(tiny_llama["a"])}}
        config = {"models": models, "benchmark": {"tasks": ["sums"]}, "execution": {"device": "cpu", **execution}}
        return lack_of_memory(Config.model_validate(config), "float32", needed, 10**9)

    needed = 10 * 10**9
    assert told() == []
    assert told(workers=1, backend="ray")[0].startswith("1 worker needs 11.0 GB of memory before")
    needed = 3 * 10**9
    assert told(workers=2) == []
    assert told(workers=3)[0].startswith("3 workers need 12.0 GB of memory before any batch, and 10.0 GB are left here")
    # Whose memory isn't this machine's, or isn't known.
    assert told(workers=3, ray_address="10.0.0.1:6379") == told(workers=3, device="cuda") == []
    monkeypatch.setattr("evomerge.study.advice.bytes_with_swap", lambda: None)
    assert told(workers=3) == []
