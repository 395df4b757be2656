"""The scripts that measure speed run as their report says, at the smallest size, from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import run as command

FOLDER = Path(__file__).parents[1] / "benchmarks"

# Imports torch last of all, and prints what OpenMP will read then.
SPY = """
import os, runpy, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            os._exit(0)
sys.meta_path.insert(0, Spy())
runpy.run_path(sys.argv[1])
"""


def run(folder: Path, *command: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(folder: Path, script: str, *arguments: str) -> Any:
    done = command([*arguments, "--json", "found.json"], folder, script=FOLDER / script)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


def measure(folder: Path, script: str, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = told(folder, script, *arguments, "--threads", "1", "--repeats", "1")
    return found


@pytest.mark.slow
def test_merging_in_place_is_measured_and_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    small = ("live", "--parameters", "2e4", "--side", "64", "--methods")
    (linear, ties) = measure(tmp_path, "merge.py", *small, "ties")["rows"]
    assert [linear["method"], ties["method"]] == ["task_arithmetic", "ties"]
    assert ties["state_bytes_stated"] > linear["state_bytes_stated"] == 0
    for row in (linear, ties):
        assert 0 < row["lowest_ms"] <= row["merge_ms"] <= row["highest_ms"]
        assert row["copy_gb_s"] > 0
    *again, sce = measure(tmp_path, "merge.py", *small, "ties", "sce")["rows"]
    assert again == [linear, ties]
    assert sce["method"] == "sce"


def test_threads_do_not_stay_awake_between_the_works_that_are_timed_in_turn(tmp_path: Path) -> None:
    assert run(tmp_path, "-c", SPY, str(FOLDER / "merge.py")) == "passive\n"


@pytest.mark.slow
def test_merging_to_disk_is_measured_with_both_tools(tmp_path: Path) -> None:
    arguments = ("stream", "--sizes", "50M", "--experts", "1", "--methods", "linear", "--folder", str(tmp_path))
    (row,) = measure(tmp_path, "merge.py", *arguments)["rows"]
    for tool in ("evomerge", "mergekit"):
        found = row[tool]
        assert len(found["process_s"]) == len(found["merge_s"]) == len(found["peak_bytes"]) == 1
        assert found["process_s"][0] > found["merge_s"][0] > 0
        assert found["peak_bytes"][0] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.slow
def test_a_candidate_is_scored_by_all_contenders_alike(tmp_path: Path) -> None:
    arguments = ("--sizes", "1M", "--cases", "choice0", "generate", "--items", "4", "--words", "6", "--new-tokens", "4")
    for result in measure(tmp_path, "scoring.py", *arguments)["results"]:
        ours = result["scores"]["ours"]
        assert result["scores"] == {"ours": ours, "stock": ours, "disk": ours}
        assert [len(values) for values in result["seconds"].values()] == [1, 1, 1]
        assert sum(values[0] for values in result["phases"].values()) <= result["seconds"]["ours"][0]
        assert result["limit"][0] > 0


@pytest.mark.slow
def test_a_candidate_is_measured_by_phase(tmp_path: Path) -> None:
    arguments = ("--sizes", "1M", "--items", "4", "--words", "6")
    (result,) = measure(tmp_path, "candidate.py", *arguments)["results"]
    assert set(result["seconds"]) == {"materialise", "respond", "bookkeeping"}
    assert all(value > 0 for values in result["seconds"].values() for value in values)


@pytest.mark.slow
def test_workers_are_kept_busy_without_generations_and_wait_with_them(tmp_path: Path) -> None:
    small = ("--workers", "20", "--trials", "100", "--times", "log-normal, sigma 1")
    generations, asynchronous = told(tmp_path, "search/utilisation.py", *small)
    assert generations["until_last_begins"] < 0.5
    assert 0.95 < asynchronous["until_last_begins"] <= 1


@pytest.mark.slow
def test_a_day_on_machines_that_are_taken_away_is_told_in_full(tmp_path: Path) -> None:
    small = ("--workers", "20", "--hours", "3", "--modes", "asynchronous")
    quiet, disturbed = told(tmp_path, "search/preemptions.py", *small)
    for found in (quiet, disturbed):
        assert sum(found["shares"].values()) == pytest.approx(1)
        assert found["shares"]["waiting"] < 0.05
    assert quiet["shares"]["away"] == quiet["shares"]["lost"] == 0
    assert 0 < disturbed["count"]["asked again"] <= disturbed["count"]["candidates lost"]
    assert disturbed["count"]["results"] < quiet["count"]["results"]


@pytest.mark.slow
def test_halves_of_the_digits_are_merged_by_every_search_at_equal_cost(tmp_path: Path) -> None:
    small = ("--pairs", "2", "--candidates", "16", "48", "--stretches", "8", "--figure", "digits.svg")
    rows = told(tmp_path, "search/digits.py", *small)
    ways = list(dict.fromkeys(row["way"] for row in rows))
    assert len(rows) == 2 * len(ways)
    assert {"networks alone", "m2n2", "genetic", "cma", "random", "uniform"} <= set(ways)
    for row in rows:
        assert len(row["accuracy"]) == 2
        # Each network knows five of ten digits, and a merge of both knows more.
        known = min if row["way"] == "networks alone" else max
        assert (known(row["accuracy"]) > 0.55) == (row["way"] != "networks alone")
    assert "</svg>" in (tmp_path / "digits.svg").read_text()


@pytest.mark.slow
def test_fronts_of_accuracy_and_length_are_told_on_items_that_no_search_saw(tmp_path: Path) -> None:
    small = (
        "models",
        "--kinds",
        "letters",
        "--seeds",
        "1",
        "--small",
        "--evaluations",
        "20",
        "--ways",
        "nsga2",
        "uniform",
    )
    rows = {row["way"]: row for row in told(tmp_path, "search/lengths.py", *small, "--figure", "lengths.svg")}
    assert list(rows) == ["nsga2", "models alone", "uniform"]
    for row in rows.values():
        assert 0 <= row["measured"][0] <= 1
        # A token ends each answer, and no more than 16 may be generated before it.
        assert all(1 <= tokens <= 17 for each in row["front"] for _, tokens in each)
    for name in ("nsga2", "uniform"):
        (accuracy, length) = zip(*(search for search, _ in rows[name]["front"]), strict=True)
        assert sorted(accuracy, reverse=True) == list(accuracy)
        assert sorted(length, reverse=True) == list(length)
    tasks = tmp_path / "models" / "letters-0" / "tasks"
    found = [json.loads(line) for file in tasks.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len({row["question"] for row in found}) == len(found) == 34
    # The same letters lead from different digits to different ones.
    assert len({(row["question"][1:], row["answer"]) for row in found}) == len(found)
    assert "</svg>" in (tmp_path / "lengths.svg").read_text()


@pytest.mark.slow
def test_products_of_whole_numbers_are_measured_beside_plain_ones(tmp_path: Path) -> None:
    (row,) = told(tmp_path, "int8.py", "--sides", "64", "--rows", "4", "--repeats", "1")["rows"]
    assert 0 < row["bfloat16_error"] < row["int8_error"] < 0.1
    assert min(row[name] for name in ("float32_ms", "bfloat16_ms", "int8_ms", "packing_ms")) > 0
