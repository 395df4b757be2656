"""What a pilot makes of one candidate's seconds: every split by its own tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.config.models import AlignConfig
from evomerge.models.alignment import Alignable
from evomerge.study.check import check
from evomerge.study.costs import split_costs
from evomerge.study.pilot import pilot
from helpers.search import write_config, write_task

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path, tiny_llama: dict[str, Path]) -> Config:
    """12 search and validation items, 24 test items."""
    return Config.from_file(write_config(tmp_path / "x.yaml", tiny_llama, write_task(tmp_path / "tasks")))


def test_a_split_costs_by_its_tokens_and_not_by_its_number(config: Config) -> None:
    experiment = check(config).experiment
    assert experiment is not None
    # Every answer with its context, once; forms that share contexts keep the proportion within some percent.
    sizes = {
        split: sum(
            len(request.context) + len(request.continuation)  # type: ignore[union-attr]
            for request in experiment.benchmark.requests(split)
        )
        for split in ("search", "validation", "test")
    }
    costs = split_costs(experiment, ())
    assert costs["search"] == 1.0
    for split in ("validation", "test"):
        assert costs[split] == pytest.approx(sizes[split] / sizes["search"], rel=0.05)
    assert costs["test"] > 1.8, "twice the items"


def test_the_whole_search_is_each_phase_with_its_own_items(config: Config) -> None:
    report = check(config)
    assert report.experiment is not None
    said: list[str] = []
    found = pilot(report.experiment, report.evaluations, repeats=1, report=said.append)
    merging = found.seconds["materialise"]
    answering = sum(found.seconds.values()) - merging
    expected = 0.0
    for phase, count in report.evaluations.items():
        cost = found.costs[phase] if phase in {"validation", "test"} else 1.0
        expected += count * (merging + cost * answering)
    assert found.hours * 3600 * found.workers == pytest.approx(expected)
    assert said == [
        "starting workers",
        "preparing the method and warming up, on 12 search items",
        "timing a candidate, 1 of 1, on 12 search items",
    ]


def test_the_maps_of_aligned_models_are_found_once_and_given_to_the_workers(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = config.models.model_copy(update={"align": AlignConfig(residual="none")})
    report = check(config.model_copy(update={"models": sources}))
    assert report.experiment is not None
    said: list[str] = []
    find, found = Alignable.find, []
    monkeypatch.setattr(Alignable, "find", lambda *given: found.append(1) or find(*given))  # type: ignore[func-returns-value]
    pilot(report.experiment, report.evaluations, repeats=1, report=said.append)
    assert said[0] == "finding the maps that align the models"
    assert len(found) == 1
