"""`evomerge status` and `evomerge trials` on a run directory."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from evomerge.run.evaluation import Evaluation
from evomerge.run.ledger import Ledger
from evomerge.run.lock import lock

pytestmark = pytest.mark.slow


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
        "validation": None,
        "test": None,
        "mark": None,
    }
    assert trials[4]["state"] == "failed"
    assert trials[4]["reason"] == "not_finite: model.norm.weight [0] is inf"
    assert trials[4]["lost_workers"] == ["preempted", "preempted"]
    assert trials[5]["state"] == "running"


def test_trials_as_csv_have_a_column_for_each_parameter_and_phase(cli: Any, run: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("trials", run, "--format", "csv").stdout)))
    assert len(rows) == 6
    assert rows[3]["parameters.weight[maths]"] == "0.75"
    assert rows[3]["seconds.materialise"] == "0.25"
    assert rows[0]["parameters.weight[maths]"] == ""
    assert rows[4]["reason"] == "not_finite: model.norm.weight [0] is inf"


def lines_of(shown: str) -> list[str]:
    return [line.rstrip() for line in shown.splitlines() if line.strip()]


def test_trials_as_a_table_show_a_line_a_trial_that_fits_80_columns(cli: Any, run: Path) -> None:
    lines = lines_of(cli("trials", run).stdout)
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["trial", "model", "gen.", "search", "valid.", "test", "time"]
    assert [line.split()[:2] for line in lines[2:8]] == [
        ["0", "base"],
        ["1", "expert"],
        ["2", "uniform"],
        ["3", "candidate"],
        ["4", "candidate"],
        ["5", "candidate"],
    ]
    assert lines[3].split()[1:3] == ["expert", "maths"]
    assert lines[5].split()[2:] == ["0", "0.6250", "1.8", "s"]
    assert lines[6].split()[2:] == ["0", "failed"]
    assert lines[7].split()[2:] == ["0", "interrupted"]
    assert lines[8] == "Trial 4 failed: not_finite: model.norm.weight [0] is inf"
    assert lines[9].startswith("No winner yet")


def test_a_trial_has_one_number_wherever_it_is_named(cli: Any, run: Path) -> None:
    for command in (("trials", run), ("status", run), ("trials", run, 3)):
        assert not re.search(r"candidate \d\b(?! +[0-9.]+)|uniform \d\b(?! +[0-9.]+)", cli(*command).stdout)


def test_the_winner_and_the_shortlist_are_marked_with_their_validation_and_test_scores(
    cli: Any, run: Path, result: dict[str, Any]
) -> None:
    from evomerge.run.directory import open_run

    ledger = Ledger.open(run, "journal", open_run(run).facts["study"])
    for number, split, value in ((2, "validation", 0.4), (3, "validation", 0.6), (3, "test", 0.55), (0, "test", 0.1)):
        ledger.record(Evaluation(trial=number, split=split, score=value))
    result["winner"] = {"trial": 3, "kind": "candidate", "recipe": {}}
    result["shortlist"] = [{"trial": 3, "kind": "candidate"}, {"trial": 2, "kind": "uniform"}]
    (run / "result.json").write_text(json.dumps(result))
    lines = lines_of(cli("trials", run).stdout)
    assert re.split(r"\s{2,}", lines[4].strip()) == ["2", "uniform, shortlist", "0.5000", "0.4000", "1.8 s"]
    assert re.split(r"\s{2,}", lines[5].strip())[:2] == ["3", "candidate, winner ★"]
    assert lines[5].split()[4:8] == ["0", "0.6250", "0.6000", "0.5500"]
    assert all(len(line) <= 80 for line in lines)
    found = json.loads(cli("trials", run, "--format", "json").stdout)
    assert [(trial["mark"], trial["validation"], trial["test"]) for trial in found] == [
        (None, None, 0.1),
        (None, None, None),
        ("shortlist", 0.4, None),
        ("winner", 0.6, 0.55),
        (None, None, None),
        (None, None, None),
    ]
    rows = list(csv.DictReader(io.StringIO(cli("trials", run, "--format", "csv").stdout)))
    assert (rows[3]["mark"], rows[3]["validation"], rows[3]["test"]) == ("winner", "0.6", "0.55")


def test_trials_are_sorted_best_first_and_cut(cli: Any, run: Path) -> None:
    def numbers(*options: object) -> list[int]:
        return [trial["number"] for trial in json.loads(cli("trials", run, "--format", "json", *options).stdout)]

    assert numbers("--sort", "fitness") == [3, 2, 1, 0, 4, 5]
    assert numbers("--top", 2) == [3, 2]
    from evomerge.run.directory import open_run

    ledger = Ledger.open(run, "journal", open_run(run).facts["study"])
    for number, split, value in ((1, "validation", 0.4), (3, "validation", 0.3), (0, "test", 0.1)):
        ledger.record(Evaluation(trial=number, split=split, score=value))
    assert numbers("--sort", "val", "--top", 3) == [1, 3, 0]
    assert numbers("--sort", "test")[0] == 0
    assert numbers("--sort", "number", "--top", 1) == [0]
    assert cli("trials", run, "--sort", "test", "--weights", "arithmetic=1").exit_code == 1


@pytest.mark.parametrize("columns", ["10", "80", "240"])
def test_lines_of_a_pipe_are_whole_and_end_with_their_last_character(
    cli: Any, run: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = cli("trials", run).stdout
    assert [line for line in shown.splitlines() if line != line.rstrip()] == []
    assert re.search(r"^ +3 +candidate +0 +0\.6250 +1\.8 s", shown, flags=re.MULTILINE)


def test_many_trials_that_fail_alike_are_one_sentence(cli: Any, run: Path) -> None:
    from evomerge.run.directory import open_run

    ledger = Ledger.open(run, "journal", open_run(run).facts["study"])
    for index in range(9):
        trial = ledger.add(kind="candidate", name=f"candidate {index + 3}", recipe_key=f"k{index}", generation=1)
        ledger.record(Evaluation(trial=trial.number, split="search", failure="memory: out of memory"))
    shown = cli("trials", run).stdout
    assert "Trials 6, 7, 8, 9, 10, 11 and 3 more failed: memory: out of memory" in shown


def test_one_trial_is_shown_with_its_parameters_and_seconds(cli: Any, run: Path) -> None:
    lines = lines_of(cli("trials", run, 3).stdout)
    assert "time          materialise 250 ms, respond 1.5 s, bookkeeping 10 ms" in lines
    assert lines[-1].split() == ["weight[maths]", "0.75"]
    assert "why         not_finite: model.norm.weight [0] is inf" in lines_of(cli("trials", run, 4).stdout)
    assert json.loads(cli("trials", run, 3, "--format", "json").stdout)[0]["parameters"] == {"weight[maths]": 0.75}
    missing = cli("trials", run, 9)
    assert (missing.exit_code, missing.stderr) == (
        1, f"Error: {run}: no trial 9; see: evomerge trials {run}\n"
    )  # fmt: skip


def test_a_wide_terminal_shows_parameters_beside_each_trial(
    cli: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert "weight[maths]=0.75" in lines_of(cli("trials", run).stdout)[5]


def test_status_of_a_stopped_run_says_how_to_continue(cli: Any, run: Path) -> None:
    shown = cli("status", run).stdout
    assert "2 of 8 done, 1 interrupted, 1 failed" in shown
    assert "running" not in shown
    assert "trial 3, a candidate: score 0.6250, fitness 0.6350" in shown
    assert shown.endswith(f"\n\ncontinue with: evomerge resume {run}\n")
    assert "\x1b" not in shown


def test_status_shows_the_leader_of_each_kind(cli: Any, run: Path) -> None:
    lines = [line.split() for line in lines_of(cli("status", run).stdout)]
    for leader in (
        ["leaders", "base", "0.1250", "trial", "0"],
        ["expert", "maths", "0.2500", "trial", "1"],
        ["best", "uniform", "0.5000", "trial", "2"],
        ["best", "candidate", "0.6250", "trial", "3"],
    ):
        assert leader in lines


def test_a_result_of_a_smaller_budget_is_not_the_end(cli: Any, run: Path, result: dict[str, Any]) -> None:
    result["budget"]["evaluations"] = 4
    (run / "result.json").write_text(json.dumps(result))
    shown = " ".join(cli("status", run).stdout.split())
    assert "continue with: evomerge resume" in shown
    assert "evolved winner" not in shown


def test_status_of_a_driven_run_shows_its_phase(cli: Any, run: Path) -> None:
    progress = run / "progress.json"
    progress.write_text(json.dumps({"phase": "search", "driving_seconds": 60, "rate_per_minute": 3.0}))
    # Whatever has gone by since is counted, too, so none may.
    os.utime(progress, (time.time() + 600, time.time() + 600))
    with lock(run):
        shown = cli("status", run).stdout
    assert "search" in shown
    assert f"driver      process {os.getpid()} on {socket.gethostname()}" in shown
    assert "1 min 00 s of driving" in shown
    assert "2 of 8 done, 1 running, 1 failed" in shown
    assert "3.0 a minute" in shown
    # Of 8 candidates and the mean 7 are left; 10 evaluations on validation and 5 on test items follow.
    assert "about 7 min 20 s for all that is to come" in shown
    assert "resume" not in shown


def test_status_of_a_finished_run_shows_the_result(cli: Any, run: Path, result: dict[str, Any]) -> None:
    (run / "result.json").write_text(json.dumps(result))
    shown = cli("status", run).stdout
    assert "done" in shown
    assert "evolved winner" in shown
    assert "On 200 test items that the search never saw" in shown
    assert "had been looked at before" not in shown
    (run / "result.json").write_text(json.dumps({**result, "test_looks": 2}))
    assert "The test items had been looked at before" in " ".join(cli("status", run).stdout.split())


@pytest.mark.parametrize("command", ["status", "trials", "resume"])
def test_a_folder_that_is_no_run_is_refused(cli: Any, tmp_path: Path, command: str) -> None:
    done = cli(command, tmp_path)
    assert done.exit_code == 1
    assert "not a run directory" in done.stderr


def test_a_damaged_run_is_named_by_check_and_repaired_when_asked(cli: Any, run: Path) -> None:
    assert cli("check", run).exit_code == 0
    evaluations = run / "evaluations.jsonl"
    lines = evaluations.read_text().splitlines(keepends=True)
    evaluations.write_text("".join([lines[0], lines[1].replace('"split"', '"splat"'), *lines[2:]]))
    found = cli("check", run)
    assert found.exit_code == 1
    assert "evaluations.jsonl: line 2 is damaged" in found.stderr
    assert f"evomerge check {run} --repair" in found.stderr
    done = cli("check", run, "--repair")
    assert done.exit_code == 0
    assert f"evaluations.jsonl: kept {len(lines) - 1} of {len(lines)} evaluations" in done.stdout
    assert "evaluations of 1 trial are lost" in done.stdout
    assert cli("check", run / "config.yaml", "--repair").exit_code == 1
