"""`evomerge runs`, `compare`, `clean` and `reproduce` on a real tiny run and its copies."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.config.config import Config
from evomerge.estimate.clusters import clustered_comparison
from evomerge.estimate.intervals import Mean, compare_scores
from evomerge.recipe.group import Group
from evomerge.report.compare import why_not_paired, winners
from evomerge.report.merge_figures import tasks
from evomerge.report.rows import Rows
from evomerge.report.run_facts import RunFacts
from evomerge.run.directory import Run, open_run
from evomerge.run.found import runs_below
from evomerge.run.lock import lock
from evomerge.study.score_model import evaluate
from evomerge.study.search import search
from evomerge.testing.runs import essence
from helpers.search import write_clustered_task, write_config, write_task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("many")
    file = write_config(folder / "tiny.yaml", tiny_llama, write_task(folder / "tasks"))
    search(
        Config.from_file(file, settings=["search={evaluations: 4, population: 4, scan: 1}"]), folder / "runs" / "one"
    )
    return folder / "runs" / "one"


@pytest.fixture
def copies(finished: Path, tmp_path: Path) -> Path:
    """A folder with the run twice, and a broken one."""
    for name in ("one", "two"):
        shutil.copytree(finished, tmp_path / "runs" / name)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    return tmp_path / "runs"


def test_runs_are_listed_with_what_their_own_files_say_and_a_broken_one_is_no_end(cli: Any, copies: Path) -> None:
    done = cli("runs", copies)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["run", "state", "candidates", "best", "test"]
    result = open_run(copies / "one").result()
    assert result is not None
    won = next(model["score"] for model in result["test"]["models"] if model["kind"] == "winner")
    assert re.split(r"\s+", lines[3])[:3] == ["one", "done", "4/4"]
    assert lines[3].endswith(f" {won:.4f}")
    assert lines[2].split()[0] == "broken"
    assert all(len(line) <= 80 for line in lines[:5])
    assert cli("runs", copies / "broken" / "nothing").exit_code == 1


def test_the_same_run_twice_differs_in_nothing(cli: Any, copies: Path) -> None:
    shown = cli("compare", copies / "one", copies / "two").stdout
    assert "their configs say the same" in shown
    assert re.search(r"on the same test items: \+0\.000 \[-0\.\d+, \+0\.\d+\], p 1\.", shown)


def test_other_keys_are_listed_and_other_items_or_models_are_not_compared_in_pairs(cli: Any, copies: Path) -> None:
    facts = json.loads((copies / "two" / "run.json").read_text())
    del facts["checksum"]
    config = (copies / "two" / "config.yaml").read_text().splitlines()
    changed = [line.replace("evaluations: 4", "evaluations: 9") for line in config if not line.startswith("# ")]
    (copies / "two" / "config.yaml").write_text("\n".join(changed))
    for place, value, reason in (
        (("items", "test"), "0", "their test items differ"),
        (("files", "base/model.safetensors"), [1, 2, "x"], "their bases differ in content"),
    ):
        other = json.loads(json.dumps(facts))
        other[place[0]][place[1]] = value
        (copies / "two" / "run.json").write_text(json.dumps(other))
        done = cli("compare", copies / "one", copies / "two")
        assert done.exit_code == 0, done.stderr
        assert re.search(r"search\.evaluations +4 +9", done.stdout)
        assert f"aren't compared in pairs: {reason}" in done.stdout


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path]) -> Path:
    """A run whose items belong together in threes."""
    folder = tmp_path_factory.mktemp("clustered")
    file = write_config(folder / "tiny.yaml", tiny_llama, write_clustered_task(folder / "tasks"))
    settings = ["search={evaluations: 4, population: 4, scan: 1}", "benchmark.cluster=topic"]
    search(Config.from_file(file, settings=settings), folder / "run")
    return folder / "run"


def test_a_model_is_scored_on_items_in_clusters_with_the_interval_that_its_run_has(clustered: Path) -> None:
    config = Config.from_file(clustered / "config.yaml")
    result = open_run(clustered).result()
    assert result is not None
    base = next(model for model in result["test"]["models"] if model["kind"] == "base")
    (found,) = evaluate(config.models.base.path, config.benchmark, split="test", execution=config.execution)
    assert (found.score, list(found.interval)) == (base["score"], base["interval"])
    chart = tasks(RunFacts(open_run(clustered)))["acc"]
    assert isinstance(chart, Rows)
    ((_, rows),) = chart.groups
    assert [rows[0].low, rows[0].high] == pytest.approx(base["interval"])
    assert "95% intervals over clusters" in chart.caption


def test_winners_on_items_in_clusters_are_compared_by_clusters(clustered: Path, tmp_path: Path) -> None:
    first, base = open_run(clustered), shutil.copytree(clustered, tmp_path / "base")
    # As if the base had won there.
    result = json.loads((base / "result.json").read_text())
    result["winner"]["trial"] = 0
    del result["checksum"]
    (base / "result.json").write_text(json.dumps(result))
    result = first.result()
    assert result is not None
    found = [first.ledger().evaluation(trial, "test") for trial in (result["winner"]["trial"], 0)]
    ours, theirs = (
        {task: Mean(np.array(one.values["acc,none"])) for task, one in each.table.tasks.items()}
        for each in found
        if each is not None and each.table is not None
    )
    names = {task: [str(place // 3) for place in range(24)] for task in ours}
    expected = clustered_comparison(theirs, ours, dict.fromkeys(ours, 1.0), names)
    assert expected != compare_scores(theirs, ours, dict.fromkeys(ours, 1.0))
    assert why_not_paired(first, open_run(base)) is None
    assert winners(first, open_run(base)) == expected
    facts = json.loads((base / "run.json").read_text())
    del facts["checksum"], facts["clusters"]
    (base / "run.json").write_text(json.dumps(facts))
    assert "of an earlier release, hasn't kept" in str(why_not_paired(first, open_run(base)))


def test_only_what_is_made_again_is_removed_and_only_when_asked(cli: Any, copies: Path) -> None:
    shutil.rmtree(copies / "broken")
    prepared, half = copies / "one" / "prepared", copies / "two" / ".result.json.tmp"
    prepared.mkdir(exist_ok=True)
    (prepared / "state").write_bytes(b"x" * 2000)
    half.write_text("{")
    before = [essence(run) for run in runs_below(copies)]
    assert "2.0 kB" in cli("clean", copies).stdout
    assert prepared.exists()
    assert half.exists()
    with lock(copies / "one"):
        assert "left alone" in cli("clean", copies / "one", "--yes").stdout
    assert prepared.exists()
    assert "Removed 2.0 kB" in cli("clean", copies, "--yes").stdout
    assert not prepared.exists()
    assert not half.exists()
    assert [essence(run) for run in runs_below(copies)] == before
    assert "Nothing to remove" in cli("clean", copies).stdout


def test_a_winner_is_scored_again_to_the_digit_and_a_difference_is_an_error(
    cli: Any, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("reproduce", copies / "one")
    assert done.exit_code == 0, done.stderr
    assert "each of 24 items what it did" in done.stdout
    own, far = Run.recipe, (Group(name="all", coefficients={"weight": 50.0}),)
    monkeypatch.setattr(Run, "recipe", lambda self, number: replace(own(self, number), groups=far))
    other = cli("reproduce", copies / "one")
    assert other.exit_code == 1
    assert "of 24 items differ" in other.stderr
