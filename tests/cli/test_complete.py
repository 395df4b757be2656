"""What is proposed on Tab, as the shell's own function asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from evomerge.cli import app

pytestmark = pytest.mark.slow


def proposed(line: str) -> list[str]:
    words = line.split(" ")
    shell = {"_EVOMERGE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return CliRunner().invoke(app, [], env=shell, prog_name="evomerge").stdout.split()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs/first", "runs/later/second", "other", ".hidden", "runs/first/control"):
        (tmp_path / name).mkdir(parents=True)
    for run in ("runs/first", "runs/later/second", ".hidden", "runs/first/control"):
        (tmp_path / run / "run.json").touch()
    for name in ("a.yaml", "other/b.yml", "notes.txt"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_commands_options_and_methods_are_completed() -> None:
    assert proposed("evomerge tri") == ["trials"]
    assert "--trial" in proposed("evomerge export runs/first --tr")
    assert proposed("evomerge methods sle") == ["slerp"]


def test_run_directories_and_configs_are_found_below_and_named_whole(folder: Path) -> None:
    assert proposed("evomerge trials ") == ["runs/first", "runs/later/second"]
    assert proposed("evomerge export runs/la") == ["runs/later/second"]
    assert proposed("evomerge export runs/first/") == ["runs/first/control"]
    assert proposed("evomerge status ~/runs/f") == ["~/runs/first"]
    assert proposed(f"evomerge status {folder}/runs/f") == [f"{folder}/runs/first"]
    assert proposed("evomerge search ") == ["a.yaml", "other/b.yml"]
    assert proposed("evomerge check ") == ["a.yaml", "other/b.yml", "runs/first", "runs/later/second"]
    assert proposed("evomerge trials nothing/here") == []
