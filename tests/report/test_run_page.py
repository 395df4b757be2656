"""The page of a run: its figures are the run's own, whatever became of it, and text stays text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from evomerge.config.config import Config
from evomerge.report import search_figures
from evomerge.report.chart import DESK
from evomerge.report.finding import finding
from evomerge.report.items_won import compared
from evomerge.report.merge_figures import rank_correlation
from evomerge.report.plane import Plane
from evomerge.report.run_facts import RunFacts
from evomerge.report.run_page import charts, run_page
from evomerge.run.directory import Run, open_run
from evomerge.run.fronts import front_of, merges_of
from evomerge.run.lock import lock
from evomerge.study.questions import questions
from evomerge.study.search import search
from helpers.html import Reader
from helpers.search import write_config, write_task
from helpers.several import write_experiment, write_tasks
from helpers.written_runs import ITEMS, write_run

HOSTILE = "</p><script>alert(1)</script> & \x1b[31mred\u202e"


def page_of(run: Run) -> Reader:
    return Reader(run_page(RunFacts(run)).html())


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path]) -> Run:
    """A whole search of tiny models."""
    folder = tmp_path_factory.mktemp("ended")
    changes = {"search": {"evaluations": 12, "population": 4, "scan": 2, "shortlist": 2}}
    config = write_config(folder / "x.yaml", tiny_llama, write_task(folder / "tasks"), **changes)
    search(Config.from_file(config), folder / "run")
    return open_run(folder / "run")


@pytest.mark.slow
def test_the_page_begins_with_what_the_search_printed_and_holds_the_results_figures(ended: Run) -> None:
    result, page = ended.result(), page_of(ended)
    assert result is not None
    assert page.texts("p")[0] == finding(result)
    for model in result["test"]["models"]:
        name = {"expert": f"expert {model['name']}", "uniform": "best uniform"}.get(model["kind"], model["kind"])
        rows = [row for row in page.rows if row[0] == name or (model["kind"] == "winner" and "winner" in row[0])]
        low, high = model["interval"]
        assert any(row[1] == f"{model['score']:.3f} [{low:.3f}, {high:.3f}]" for row in rows), name
    for group in result["winner"]["recipe"]["groups"]:
        expected = [f"{value:.4g}" for value in group["coefficients"]["weight"].values()]
        assert page.row(group["name"])[1:] == expected
    assert page.row("torch")[1] == ended.facts["versions"]["torch"]
    assert not [value for name, value in page.attributes if name in {"src", "href"} or name.startswith("on")]
    assert str(ended.config.models.base.path) not in "".join(text for _, text in page.parts)


def test_items_won_and_lost_are_those_of_the_item_table_with_what_was_asked(ended: Run) -> None:
    facts = RunFacts(ended)
    found = compared(facts)
    assert found is not None
    ledger, result = ended.ledger(), ended.result()
    assert result is not None
    experts = {model["name"]: model for model in result["test"]["models"] if model["kind"] == "expert"}
    assert experts[found.expert]["score"] == max(model["score"] for model in experts.values())
    scores = []
    for trial in (result["winner"]["trial"], experts[found.expert]["trial"]):
        evaluation = ledger.evaluation(trial, "test")
        assert evaluation is not None
        assert evaluation.table is not None
        scores.append(np.array(evaluation.table.tasks["tiny_choice"].values["acc,none"]))
    difference = scores[0] - scores[1]
    counts = [int(np.sum(one)) for one in (difference > 0, difference < 0, difference == 0)]
    assert [len(found.won), len(found.lost), found.equal] == counts
    table = facts.table(found.merge, "test")
    assert table is not None
    items = table.tasks["tiny_choice"].items
    asked = questions(ended, "test", items)
    folder = Path(ended.config.benchmark.include_path[0])
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    assert len(asked) == len(rows)
    for item, row in zip(items, rows, strict=True):
        assert asked[item].prompt.split() == f"Question: {row['question']} Answer:".split()
        assert [choice.strip() for choice in asked[item].choices] == row["choices"]


def test_the_best_so_far_has_the_standard_error_of_its_items(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [3, 6, 5, 8])
    chart = charts(RunFacts(run))["convergence"]
    assert isinstance(chart, Plane)
    assert chart.numbers is not None
    for row, (place, right) in zip(chart.numbers.rows, [(1, 3), (2, 6), (4, 8)], strict=True):
        share = right / ITEMS
        error = math.sqrt(share * (1 - share) / (ITEMS - 1))
        assert row == (str(place), str(place + 2), f"{share:.4g}", f"{error:.4g}")
    assert [level.y for level in chart.levels] == [0.2, 0.4, 0.5]


def test_tasks_have_wilson_intervals_and_languages_their_shares(ended: Run) -> None:
    facts = RunFacts(ended)
    assert facts.result is not None
    facts.result["languages"] = {"tiny_choice": {"code": "sw", "at_least": None}}
    for place, model in enumerate(facts.result["test"]["models"]):
        model["languages"] = {"tiny_choice": 0.125 * place}
    found = charts(facts)
    (own,), (languages,) = ([rows for _, rows in chart.groups] for chart in (found["tasks"], found["tasks-language"]))  # type: ignore[attr-defined]
    for place, (row, share, model) in enumerate(zip(own, languages, facts.result["test"]["models"], strict=True)):
        assert (row.value, row.low, row.high) == pytest.approx((model["tasks"]["tiny_choice"], *model["interval"]))
        assert (share.value, share.low) == (0.125 * place, None)


STATES = {
    "one candidate": ([7], "with 1 of 40 candidates done"),
    "one in all": ([None], "with 0 of 40 candidates done"),
    "only failures": (["no memory"] * 5, "Every candidate failed"),
    "interrupted": ([3, 5, None], "has stopped and has not ended, with 2 of 40"),
    "pruned": ([3, "pruned", 6, "pruned"], "stopped early"),
    "alike": ([0, 0, 0], "has not ended"),
}


@pytest.mark.parametrize("state", STATES)
def test_a_run_in_any_state_says_so_and_has_no_empty_drawing(tmp_path: Path, state: str) -> None:
    outcomes, said = STATES[state]
    run = write_run(tmp_path / "run", outcomes, baselines=state != "one in all")  # type: ignore[arg-type]
    page = page_of(run)
    assert said in " ".join(text for _, text in page.parts)
    assert "There is no result yet" in " ".join(page.texts("p"))
    for drawing in page.drawings:
        drawn = [one for one in drawing.iter() if one.attrib.get("fill", "none") != "none" or one.attrib.get("d")]
        assert len(drawn) > 3


def test_a_run_that_is_driven_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [3, 5])
    with lock(run.directory):
        assert "This run is being driven and has not ended" in page_of(run).texts("p")[0]


def test_a_run_without_any_trial_has_a_page(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", [], baselines=False))
    assert not page.drawings
    assert "There is no result yet" in page.texts("p")[0]


def test_hostile_reasons_are_text_with_control_characters_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [4, HOSTILE])
    page = page_of(run)
    shown = "</p><script>alert(1)</script> & \\x1b[31mred\\u202e"
    assert shown in page.texts("dd")
    assert not [text for _, text in page.parts if set("\x1b\u202e") & set(text)]


def test_of_many_candidates_some_are_drawn_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", [place % 9 for place in range(23)])
    whole = charts(RunFacts(run))["convergence"]
    monkeypatch.setattr(search_figures, "MOST_POINTS", 8)
    thin = charts(RunFacts(run))["convergence"]
    assert "are drawn as points" not in whole.caption
    assert thin.caption.startswith("8 of 23 candidates with a score are drawn as points")
    assert whole.numbers == thin.numbers
    dots = [one.svg(DESK).count("h0") for one in (whole, thin)]
    assert dots[0] - dots[1] == 15


@pytest.mark.slow
def test_several_objectives_show_the_front_and_its_growth(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    path, tasks = tmp_path / "two.yaml", write_tasks(tmp_path / "tasks", items=12)
    goals = {"north": "north", "south": "south"}
    config = write_experiment(path, tiny_llama, tasks, objectives=goals, algorithm="nsga2", evaluations=12)
    search(config, tmp_path / "run")
    run = open_run(tmp_path / "run")
    found, result = charts(RunFacts(run)), run.result()
    assert result is not None
    assert {"front", "hypervolume", "coefficients"} <= set(found)
    assert "convergence" not in found
    front = found["front"].numbers
    assert front is not None
    assert [row[0] for row in front.rows] == [str(one.trial) for one in front_of(merges_of(run.ledger()))]
    page = page_of(run)
    assert page.texts("p")[0] == finding(result)
    knee = next(row for row in result["front"] if row["trial"] == result["picks"]["knee"])
    expected = [f"{value:.4g}" for value in knee["test"]["objectives"].values()]
    assert any(row[0].startswith(f"trial {knee['trial']}: ") and row[1:] == expected for row in page.rows)


def test_rank_correlation_is_spearmans_also_with_ties() -> None:
    draws = np.random.default_rng(0)
    first, second = draws.integers(0, 6, 50).astype(float), draws.normal(size=50).round(1)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
