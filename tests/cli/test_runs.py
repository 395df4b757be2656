"""`evomerge status` and `evomerge trials` on a run directory."""

from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import runs
from evomerge.run.lock import lock


def test_trials_as_json_hold_everything_known_of_each_trial(cli: Any, run: Path) -> None:
    trials = json.loads(cli("trials", run, "--format", "json").stdout)
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3, 4, 5]
    assert trials[3] == {
        "number": 3,
        "kind": "candidate",
        "name": "candidate 0",
        "state": "complete",
        "score": 0.625,
        "fitness": 0.635,
        "generation": 0,
        "parameters": {"weight[maths]": 0.75},
        "seconds": {"materialise": 0.25, "respond": 1.5, "bookkeeping": 0.01},
        "reason": None,
    }
    assert trials[4]["state"] == "failed"
    assert trials[4]["reason"] == "not_finite: model.norm.weight [0] is inf"
    assert trials[5]["state"] == "running"


def test_trials_as_csv_have_a_column_for_each_parameter_and_phase(cli: Any, run: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("trials", run, "--format", "csv").stdout)))
    assert len(rows) == 6
    assert rows[3]["parameters.weight[maths]"] == "0.75"
    assert rows[3]["seconds.materialise"] == "0.25"
    assert rows[0]["parameters.weight[maths]"] == ""
    assert rows[4]["reason"] == "not_finite: model.norm.weight [0] is inf"


def test_trials_as_a_table_show_a_line_a_trial(cli: Any, run: Path) -> None:
    lines = [line for line in cli("trials", run).stdout.splitlines() if line.strip()]
    assert len(lines) == 2 + 6
    assert "weight[maths]=0.75" in lines[5]
    assert "0.6250" in lines[5]
    assert "1.8 s" in lines[5]
    assert "not_finite: model.norm.weight [0] is inf" in lines[6]


def test_status_of_a_stopped_run_says_how_to_continue(cli: Any, run: Path) -> None:
    shown = cli("status", run).stdout
    assert "2 of 8, 1 running, 1 failed" in shown
    assert "score 0.6250, fitness 0.6350: trial 3 (candidate 0)" in shown
    assert f"continue with: evomerge resume {run}" in shown
    assert "\x1b" not in shown


def test_status_of_a_driven_run_shows_its_phase(cli: Any, run: Path) -> None:
    (run / "progress.json").write_text(json.dumps({"phase": "search", "driving_seconds": 60, "rate_per_minute": 3.0}))
    with lock(run):
        shown = cli("status", run).stdout
    assert "search" in shown
    assert "3.0 a minute" in shown
    assert "2 min 00 s" in shown
    assert "resume" not in shown


def test_status_of_a_finished_run_shows_the_result(cli: Any, run: Path, result: dict[str, Any]) -> None:
    (run / "result.json").write_text(json.dumps(result))
    shown = cli("status", run).stdout
    assert "done" in shown
    assert "evolved winner" in shown
    assert "On 200 test items that the search never saw" in shown


def test_watching_prints_a_line_when_something_changes_and_ends_with_the_driver(
    cli: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_REFRESH_S", 0.05)
    driving, stop = threading.Event(), threading.Event()

    def drive() -> None:
        with lock(run):
            driving.set()
            stop.wait(10)

    thread = threading.Thread(target=drive)
    thread.start()
    driving.wait(10)
    threading.Timer(0.5, stop.set).start()
    lines = cli("status", run, "--watch").stdout.splitlines()
    thread.join()
    assert lines[0] == "not started, 2/8 candidates, 1 failed, best 0.6250"
    assert lines[1].startswith("stopped; continue with")
    assert len(lines) == 2


@pytest.mark.parametrize("command", ["status", "trials", "resume"])
def test_a_folder_that_is_no_run_is_refused(cli: Any, tmp_path: Path, command: str) -> None:
    done = cli(command, tmp_path)
    assert done.exit_code == 1
    assert "not a run directory" in done.stderr
