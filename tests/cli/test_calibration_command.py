"""`evomerge calibration` on a run's recorded scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.config.config import Config
from evomerge.files.lines import Lines
from evomerge.run.directory import create_run
from evomerge.run.estimates import ESTIMATES
from evomerge.run.evaluation import Evaluation
from evomerge.run.ledger import Ledger
from evomerge.score.table import ItemTable, TaskScores

pytestmark = pytest.mark.slow

METRIC = "acc,none"
ESTIMATORS = ("mean", "difference", "p_irt", "gp_irt", "mp_irt", "gmp_irt")
ITEMS = 40
WENT_BY = [
    ("difference", {"p_irt": "p_irt needs 22 models that answered every item, and has 7"}),
    ("difference", {"p_irt": "p_irt needs 22 models that answered every item, and has 7"}),
    ("p_irt", {}),
]


def run_of(folder: Path, merges: int) -> Path:
    """A run whose base and merges answered 40 items by chance, as their abilities let expect; its expert failed."""
    folder.mkdir()
    config = Config.from_data({"models": {"base": "a/b", "experts": {"x": "a/c"}}, "benchmark": {"tasks": ["sums"]}})
    task = {"task": "sums", "metric": METRIC, "higher_is_better": True, "weight": 1.0}
    made = create_run(folder, config, {"identity": {}, "benchmark": {"tasks": [task]}})
    ledger = Ledger.open(folder, "journal", made.facts["study"])
    generator = np.random.default_rng(0)
    difficulty = generator.normal(size=ITEMS)
    kinds = ["base", "expert", *["candidate"] * merges]
    for number, kind in enumerate(kinds):
        trial = ledger.add(kind=kind, name=f"{kind} {number}", recipe_key=str(number), generation=0)
        if kind == "expert":
            ledger.record(Evaluation(trial=trial.number, split="search", failure="error: lost"))
            continue
        right = generator.random(ITEMS) < 1 / (1 + np.exp(difficulty - generator.normal()))
        values = tuple(right.astype(float).tolist())
        table = ItemTable(tasks={"sums": TaskScores(items=tuple(map(str, range(ITEMS))), values={METRIC: values})})
        score = float(right.mean())
        aggregates = {"sums": {METRIC: score}}
        ledger.record(Evaluation(trial=trial.number, split="search", score=score, table=table, aggregates=aggregates))
    lines = Lines(folder / ESTIMATES, of=made.facts["study"])
    for generation, (name, reasons) in enumerate(WENT_BY):
        lines.append(json.dumps({"generation": generation, "estimator": name, "reasons": reasons}) + "\n")
    return folder


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("calibration") / "run", 12)


def test_the_table_fits_80_columns_and_each_note_is_a_line(cli: Any, answered: Path) -> None:
    found = cli("calibration", answered, "--items", 8, "--items", 20)
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert max(len(line) for line in lines if not line.endswith(".")) <= 80
    assert lines[0].startswith("Scores on 40 items estimated from some of them, of 13 models")
    rows = [line.split() for line in lines if line.split()[:1] in (["8"], ["20"]) and line.split()[-1] in {"yes", "no"}]
    assert [(row[0], row[1]) for row in rows] == [(count, name) for count in ("8", "20") for name in ESTIMATORS]
    doubted = {(row[1], row[0]) for row in rows if row[-1] == "no"}
    assert {(name, count) for name in ("mp_irt", "gmp_irt") for count in ("8", "20")} <= doubted
    assert all(sum(line.startswith(f"{name} from {count} items: ") for line in lines) == 1 for name, count in doubted)
    said = " ".join(lines)
    assert "The search went by difference in generations 0 to 1 (p_irt: p_irt needs 22 models" in said
    assert said.endswith("The search went by p_irt in generation 2.")


def test_json_holds_the_figures_of_the_table(cli: Any, answered: Path) -> None:
    data = json.loads(cli("calibration", answered, "--items", 20, "--estimator", "mean", "--json").stdout)
    assert (data["models"], data["items"]) == (13, ITEMS)
    assert [(one["estimator"], one["reasons"]) for one in data["told"]] == WENT_BY
    (one,) = data["tried"]
    assert (one["estimator"], one["items"]) == ("mean", 20)
    # Above nothing, and below the most that a mean of 20 that are right or wrong is expected to miss.
    assert 0.02 < one["rmse"] < 0.5 / 20**0.5
    assert one["rmse"] == one["rmse_of_mean"]
    assert -1 <= one["tau"] <= 1


def test_a_run_without_enough_complete_merges_is_told_what_it_lacks(cli: Any, tmp_path: Path) -> None:
    found = cli("calibration", run_of(tmp_path / "run", 7))
    assert found.exit_code == 1
    said = " ".join(found.stderr.split())
    assert "7 merges have answered every search item" in said
    assert "needs 8; let the search go on" in said


def test_more_items_than_there_are_and_unknown_estimators_are_refused(cli: Any, answered: Path) -> None:
    assert "40 is none of 2 to 39" in cli("calibration", answered, "--items", 40).stderr
    assert "Did you mean 'gp_irt'" in cli("calibration", answered, "--estimator", "gpirt").stderr
