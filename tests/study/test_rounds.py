"""Pruners that decide over whole generations: the same decisions whatever interrupts them, whoever answers first."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.run.directory import open_run
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.executors import Shuffled, executors, stopped
from helpers.search import Count, changed
from helpers.search import answered_blocks as answered

pytestmark = pytest.mark.slow

_OPTIONS = {
    "racing": {"delta": 0.99},
    "standard_error": {"errors": 0.5, "items": 4},
    "successive_halving": {"items": 4, "keep": 0.5},
    "wilcoxon": {"p": 0.4, "items": 4},
}


@pytest.fixture(scope="module", params=[*_OPTIONS])
def racing(request: pytest.FixtureRequest, config: Config) -> Config:
    name = str(request.param)
    settings = {"evaluations": 16, "scan": 2, "shortlist": 2, "block": 2, "pruner": name}
    return changed(config, search=settings | {"pruner_options": _OPTIONS[name]})


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory, racing: Config) -> Path:
    directory = tmp_path_factory.mktemp("raced") / "run"
    search(racing, directory)
    return directory


def test_a_generation_is_stopped_block_by_block_and_its_best_answer_everything(raced: Path, racing: Config) -> None:
    trials = open_run(raced).trials()
    blocks = {trial.number: sum(number == trial.number for number, _ in answered(raced)) for trial in trials}
    for generation in (0, 1):
        inside = [trial for trial in trials if trial.generation == generation]
        complete = [trial for trial in inside if trial.state == "complete"]
        assert complete
        assert {blocks[trial.number] for trial in complete} == {6}
        assert {trial.state for trial in inside} <= {"complete", "pruned"}
        if racing.search.pruner in {"racing", "standard_error"}:
            # The better half of eight.
            assert len(complete) >= 4
    pruned = [trial for trial in trials if trial.state == "pruned"]
    # Evidence of a dozen items is too weak for the tests, whatever error rate they are allowed.
    assert pruned or racing.search.pruner == "racing"
    assert {blocks[trial.number] for trial in pruned} <= {1, 2, 3, 4, 5}
    assert not {trial.number for trial in pruned} & {item.trial for item in open_run(raced).ledger().evaluations()}


@pytest.mark.parametrize("after", [3, 13])
def test_an_interrupted_search_decides_the_same_and_asks_no_block_twice(
    tmp_path: Path, racing: Config, raced: Path, after: int
) -> None:
    with stopped(after=after):
        search(racing, tmp_path / "run")
    assert len((tmp_path / "run" / "parts.jsonl").read_text().splitlines()) == after
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(raced)
    assert sorted(answered(tmp_path / "run")) == sorted(answered(raced))


def test_the_order_in_which_workers_answer_changes_no_decision(tmp_path: Path, racing: Config, raced: Path) -> None:
    with executors(Shuffled):
        search(racing, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(raced)
    count = Count()
    search(racing, tmp_path / "run", observer=count)
    assert count.evaluated == []
