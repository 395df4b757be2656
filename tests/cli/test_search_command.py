"""`evomerge search` and `evomerge resume` on real tiny models, as a shell sees them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evomerge.recipe.recipe import Recipe
from evomerge.run.directory import open_run
from evomerge.testing.runs import essence
from helpers.commands import Command, run
from helpers.patience import LONG_S
from helpers.search import write_config, write_task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    return write_config(folder / "tiny.yaml", tiny_llama, write_task(folder / "tasks"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, config: Path) -> tuple[Path, str]:
    """A finished run and what the command printed."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    done = run(["search", config, "--run", directory])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return directory, done.stdout


def test_a_search_in_a_pipe_prints_phases_generations_and_the_outcome(finished: tuple[Path, str]) -> None:
    directory, out = finished
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in out.splitlines()]
    assert lines[:2] == ["loading libraries", "opening the models"]
    assert "scoring base, experts and uniform merges: 7 evaluations" in lines
    generations = [line for line in lines if line.startswith("generation ")]
    assert [line.split(":")[0] for line in generations] == [f"generation {number}" for number in range(4)]
    assert "28/28 evaluated" in generations[-1]
    assert any(line.startswith("Accuracy on 24 test items, held out") for line in lines)
    assert any(line.startswith("evolved winner") or line.startswith("winner (uniform)") for line in lines)
    assert any("test items that the search never saw" in line for line in lines)
    assert f"  evomerge export {directory} OUT" in lines
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", out)


def test_the_same_command_again_shows_the_result_and_changes_nothing(
    cli: Any, config: Path, finished: tuple[Path, str]
) -> None:
    directory, out = finished
    before = essence(directory)
    done = cli("search", config, "--run", directory)
    assert done.exit_code == 0
    table = [line for line in out.splitlines() if "[" in line]
    assert [line for line in done.stdout.splitlines() if "[" in line] == table
    assert essence(directory) == before


def test_export_writes_the_winner(cli: Any, tmp_path: Path, finished: tuple[Path, str]) -> None:
    done = cli("export", finished[0], tmp_path / "winner")
    assert done.exit_code == 0, done.stderr
    assert {"config.json", "recipe.yaml", "README.md"} <= {path.name for path in (tmp_path / "winner").iterdir()}
    printed = Recipe.from_yaml(cli("recipe", finished[0]).stdout)
    assert Recipe.from_file(tmp_path / "winner" / "recipe.yaml") == printed
    of_folder, of_file = (cli("recipe", tmp_path / "winner" / name).stdout for name in ("", "recipe.yaml"))
    assert of_folder == of_file != ""
    for name in ("recipe.yaml", "README.md"):
        assert "/tmp" not in (tmp_path / "winner" / name).read_text(), "no path of this machine"
    assert "method: passthrough" in cli("recipe", finished[0], "--trial", 0).stdout
    following = f"score {tmp_path / 'winner'} --config {finished[0] / 'config.yaml'}"
    assert done.stdout.splitlines()[-1] == f"Next: evomerge {following}"
    scored = cli(*following.split())
    assert scored.exit_code == 0, scored.stderr
    winner = next(
        model
        for model in json.loads((finished[0] / "result.json").read_text())["test"]["models"]
        if model["kind"] == "winner"
    )
    assert f"{winner['score']:.3f} [" in scored.stdout


def test_a_finished_run_is_exported_next_and_one_that_goes_on_is_resumed(
    cli: Any, tmp_path: Path, finished: tuple[Path, str]
) -> None:
    assert f"the files agree. Next: evomerge export {finished[0]} OUT" in " ".join(
        cli("check", finished[0]).stdout.split()
    )
    directory = Path(shutil.copytree(finished[0], tmp_path / "run"))
    (directory / "result.json").unlink()
    assert f"Next: evomerge resume {directory}" in " ".join(cli("check", directory).stdout.split())


def test_trials_and_status_read_a_finished_run(cli: Any, finished: tuple[Path, str]) -> None:
    trials = json.loads(cli("trials", finished[0], "--format", "json").stdout)
    assert {trial["state"] for trial in trials} == {"complete"}
    assert all(set(trial["seconds"]) >= {"materialise", "respond"} for trial in trials if trial["seconds"])
    assert "done" in cli("status", finished[0]).stdout


@pytest.mark.parametrize("folder", [".", "missing"])
def test_a_command_in_a_forked_process_is_one_in_a_process_of_its_own(finished: tuple[Path, str], folder: str) -> None:
    arguments = ["status", str(finished[0] / folder)]
    alone = subprocess.run([sys.executable, "-m", "evomerge", *arguments], capture_output=True, text=True, check=False)
    forked = run(arguments)
    assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_search_stopped_by_a_signal_says_how_to_go_on_and_goes_on(
    tmp_path: Path, config: Path, finished: tuple[Path, str], number: int, code: int
) -> None:
    directory = tmp_path / "run"
    process = Command(["search", config, "--run", directory])
    records = directory / "evaluations.jsonl"
    while process.poll() is None and not (records.exists() and records.read_bytes().count(b"\n") >= 9):
        time.sleep(0.005)
    process.send_signal(number)
    _, error = process.communicate(timeout=LONG_S)
    assert process.returncode == code, error
    assert error == f"stopped; continue with: evomerge resume {directory}\n"
    resumed = run(["resume", directory])
    assert resumed.returncode == 0, resumed.stderr
    assert "of them already done" in resumed.stdout
    assert essence(directory) == essence(finished[0])


def test_a_larger_budget_continues_a_finished_run(cli: Any, tmp_path: Path, config: Path) -> None:
    directory = tmp_path / "run"
    assert cli("search", config, "--run", directory, "--set", "search.evaluations=8").exit_code == 0
    assert "evaluations: 28" in config.read_text()
    assert open_run(directory).config.search.evaluations == 8
    done = cli("resume", directory, "--evaluations", 12)
    assert done.exit_code == 0, done.stderr
    assert "searching: 12 evaluations, 8 of them already done" in done.stdout
    assert cli("resume", directory, "--evaluations", 4).exit_code == 1
    assert "a budget can only grow" in cli("resume", directory, "--evaluations", 4).stderr


def test_another_experiment_in_the_directory_is_refused(
    cli: Any, tmp_path: Path, config: Path, finished: tuple[Path, str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(config.read_text().replace("granularity: layer", "granularity: all"))
    done = cli("search", other, "--run", finished[0])
    assert done.exit_code == 1
    assert "space.granularity" in done.stderr


def test_the_default_run_directory_is_named_after_the_config(
    cli: Any, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("search", config).exit_code == 0
    assert (tmp_path / "runs" / "tiny" / "result.json").exists()
