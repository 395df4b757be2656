"""Commands whose cluster loses its head: each ends with 75, and says what is kept and with which command to go on."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from evomerge.config.config import Config
from evomerge.execute import EXECUTORS
from evomerge.study.search import search
from helpers.commands import run
from helpers.search import write_config, write_task

pytestmark = pytest.mark.slow

ONCE_MORE = "What was measured isn't kept, and nothing else is lost; start again with: evomerge "


def beheaded(*arguments: object) -> CompletedProcess[str]:
    return run(arguments, script=Path(__file__).with_name("beheaded.py"))


@pytest.fixture
def config(tmp_path: Path, tiny_llama: dict[str, Path]) -> Path:
    execution = {"backend": "beheaded", "device": "cpu"}
    small = {"evaluations": 4, "scan": 1, "population": 4}
    return write_config(
        tmp_path / "a b.yaml", tiny_llama, write_task(tmp_path / "t"), execution=execution, search=small
    )


@pytest.mark.parametrize(
    "command",
    [
        ("score", "MODEL", "--config", "CONFIG", "--split", "search"),
        ("connect", "base", "a", "--config", "CONFIG", "--points", "3"),
        ("check", "CONFIG", "--pilot"),
    ],
)
def test_a_command_that_keeps_nothing_names_itself(
    config: Path, tiny_llama: dict[str, Path], command: tuple[str, ...]
) -> None:
    places = {"MODEL": str(tiny_llama["a"]), "CONFIG": str(config)}
    typed = [places.get(part, part) for part in command]
    done = beheaded(*typed)
    assert done.returncode == os.EX_TEMPFAIL == 75
    assert done.stderr.splitlines()[-1] == f"Error: the head is gone. {ONCE_MORE}{shlex.join(typed)}"


@pytest.fixture
def ended(config: Path, tmp_path: Path) -> Path:
    """A run whose cluster was there to its end."""
    with EXECUTORS.extended({"beheaded": "evomerge.execute.inline:InlineExecutor"}):
        return search(Config.from_file(config), tmp_path / "run").directory


def test_a_winner_that_could_not_be_scored_again_is_asked_for_again(ended: Path) -> None:
    kept = {path: path.read_bytes() for path in ended.rglob("*") if path.is_file()}
    done = beheaded("reproduce", ended, "--trial", 3)
    assert done.returncode == 75
    assert done.stderr.splitlines()[-1] == f"Error: the head is gone. {ONCE_MORE}reproduce {ended} --trial 3"
    assert {path: path.read_bytes() for path in ended.rglob("*") if path.is_file()} == kept


def test_a_control_that_has_recorded_something_goes_on_by_the_same_command(ended: Path) -> None:
    done = beheaded("control", ended)
    assert done.returncode == 75
    said = f"Error: the head is gone. Nothing recorded is lost; continue with: evomerge control {ended}"
    assert done.stderr.splitlines()[-1] == said


def test_a_search_goes_on_by_its_directory(config: Path, tmp_path: Path) -> None:
    done = beheaded("search", config, "--run", tmp_path / "run")
    assert done.returncode == 75
    said = f"Error: the head is gone. Nothing recorded is lost; continue with: evomerge resume {tmp_path / 'run'}"
    assert done.stderr.splitlines()[-1] == said
