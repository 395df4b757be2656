"""What may be claimed of a winner: looks at the test items, the gap from search to test, correction for a choice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.cli.results import result_table
from evomerge.config.config import Config
from evomerge.estimate.intervals import Mean
from evomerge.report.finding import cautions
from evomerge.report.model_card import model_card
from evomerge.run.directory import open_run
from evomerge.run.evaluation import Evaluation
from evomerge.study.claims import generalisation, looks_before, selection
from evomerge.study.search import resume, search
from helpers.search import Interrupt, changed

pytestmark = pytest.mark.slow

BUDGET = {"evaluations": 10}


def earlier(trials: list[int], **more: Any) -> dict[str, Any]:
    return {"budget": BUDGET, "test": {"models": [{"trial": number} for number in trials]}, **more}


def test_a_result_made_again_is_no_second_look_and_another_one_is() -> None:
    assert looks_before(None, BUDGET, [1, 2], []) == 0
    assert looks_before(None, BUDGET, [1, 2], [Evaluation(trial=1, split="test", score=0.5)]) == 0
    assert looks_before(None, BUDGET, [1, 2], [Evaluation(trial=3, split="test", score=0.5)]) == 1
    assert looks_before(None, BUDGET, [1, 2], [Evaluation(trial=3, split="validation", score=0.5)]) == 0
    assert looks_before(earlier([1]), BUDGET, [1, 2], []) == 0
    assert looks_before(earlier([1, 3]), BUDGET, [1, 2], []) == 1
    assert looks_before(earlier([1]), {"evaluations": 20}, [1, 2], []) == 1
    assert looks_before(earlier([1], test_looks=3), {"evaluations": 20}, [1], []) == 3
    assert looks_before(earlier([1], test_looks=3), BUDGET, [1], []) == 2


@pytest.fixture(scope="module")
def short(config: Config) -> Config:
    return changed(config, search={"evaluations": 4})


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, short: Config) -> Path:
    """A finished search. Don't write into it."""
    directory = tmp_path_factory.mktemp("ended") / "run"
    search(short, directory)
    return directory


@pytest.fixture
def directory(ended: Path, tmp_path: Path) -> Path:
    """A copy of the search, which may be written into."""
    return Path(shutil.copytree(ended, tmp_path / "run"))


def test_an_extended_search_says_that_its_test_items_had_been_looked_at(short: Config, directory: Path) -> None:
    first = search(short, directory)
    assert first.data["test_looks"] == 1
    assert not any("looked at before" in sentence for sentence in cautions(first.data))
    with pytest.raises(KeyboardInterrupt):
        resume(directory, evaluations=12, observer=Interrupt(10))
    second = resume(directory)
    assert second.data["test_looks"] == 2
    assert cautions(second.data)[0].startswith("The test items had been looked at before, for an earlier result of")
    assert "looked at before, for an earlier result" in str(result_table(second.data).caption)
    third = resume(directory, evaluations=13)
    assert third.data["test_looks"] == 3
    run = open_run(directory)
    card = model_card(run, run.trials()[third.winner], run.recipe(third.winner), name="merged")
    assert "The test items had been looked at before, for 2 earlier results of the same search." in card


def test_a_result_that_is_lost_and_made_again_counts_as_one_look(short: Config, directory: Path) -> None:
    before = search(short, directory).data
    (directory / "result.json").unlink()
    assert search(short, directory).data["test_looks"] == before["test_looks"] == 1


def test_a_finished_run_says_what_its_winner_was_chosen_from(undisturbed: Path) -> None:
    result = open_run(undisturbed).result()
    assert result is not None
    found = result["selection"]
    assert found["looked_at"] == len(result["shortlist"])
    assert found["validation"] == max(row["validation"] for row in result["shortlist"])
    assert found["interval"][0] < found["validation"] < found["interval"][1]
    winner = {
        split: next(model["score"] for model in result[split]["models"] if model["kind"] == "winner")
        for split in ("search", "validation", "test")
    }
    assert {split: result["generalisation"][split] for split in winner} == winner
    assert result["generalisation"]["search_to_test"] == pytest.approx(winner["search"] - winner["test"])


def test_the_more_were_looked_at_the_wider_the_interval_and_the_lower_the_corrected_score() -> None:
    generator = np.random.default_rng(3)
    models = [{"t": Mean((generator.random(200) < 0.5).astype(float))} for _ in range(10)]
    models.sort(key=lambda model: -float(model["t"].values.mean()))
    score = float(models[0]["t"].values.mean())
    few, many = (selection(models[:count], 0, score, {"t": 1.0}) for count in (2, 10))
    assert many["interval"][0] < few["interval"][0] < score
    assert many["corrected"] < score


def test_a_gap_that_chance_does_not_explain_is_said() -> None:
    def split(score: float, half: float) -> dict[str, Any]:
        return {"models": [{"kind": "winner", "score": score, "interval": [score - half, score + half]}]}

    clear = {"search": split(0.9, 0.05), "validation": split(0.6, 0.1), "test": split(0.5, 0.05)}
    clear["generalisation"] = generalisation(clear)
    assert clear["generalisation"]["search_to_test"] == pytest.approx(0.4)
    (sentence,) = cautions(clear)
    assert "0.900 on the search items and 0.500 on the test items, 0.400 less" in sentence
    unclear = {**clear, "search": split(0.52, 0.05)}
    unclear["generalisation"] = generalisation(unclear)
    assert cautions(unclear) == []
    untested = {**clear, "test": {"models": []}}
    untested["generalisation"] = generalisation(untested)
    assert untested["generalisation"]["test"] is None
    assert cautions(untested) == []
