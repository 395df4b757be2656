"""`evomerge demo` from building to export, with models that are made instead of trained."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evomerge.demo.build
from evomerge.demo.build import Settings
from evomerge.run.directory import open_run
from helpers.search import write_config, write_task

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def ready_made(monkeypatch: pytest.MonkeyPatch, tiny_llama: dict[str, Path]) -> None:
    def build(folder: Path, *, seed: int, settings: Settings | None, progress: Callable[[str, int, int], None]) -> Path:
        if not (folder / "config.yaml").exists():
            for stage in ("training the base", "training the swahili expert"):
                for done in range(3):
                    progress(stage, done, 3)
            settings = {"evaluations": 8, "population": 8, "scan": 2, "seed": seed}
            write_config(folder / "config.yaml", tiny_llama, write_task(folder / "tasks"), search=settings)
        return folder / "config.yaml"

    monkeypatch.setattr(evomerge.demo.build, "build_demo", build)


def test_the_demo_builds_searches_tests_and_exports(cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "my demo"
    folder.mkdir()
    done = cli("demo", folder, "--seed", 3)
    assert done.exit_code == 0, done.stderr
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[:3] == [f"Everything goes to {folder}", "training the base", "training the swahili expert"]
    assert re.fullmatch(r"[-\d]{10} [:\d]{8}  loading libraries", lines[3])
    assert any(line.startswith("Accuracy on 24 test items, held out") for line in lines)
    assert any("test items that the search never saw" in line for line in lines)
    (winner,) = folder.glob("winner-trial-*")
    assert any(line.endswith(str(winner)) for line in lines)
    assert f"  evomerge resume '{folder / 'run'}' --evaluations 16" in lines
    assert (winner / "model.safetensors").exists()
    assert open_run(folder / "run").config.search.seed == 3


def test_the_demo_again_shows_the_same_and_trains_nothing(cli: Any, tmp_path: Path) -> None:
    first = cli("demo", tmp_path).stdout.splitlines()
    second = cli("demo", tmp_path).stdout.splitlines()
    assert "training the base" not in second
    table = first.index(next(line for line in first if line.startswith("Accuracy on")))
    assert second[-len(first[table:]) :] == first[table:]


def test_a_demo_with_an_extended_budget_keeps_it(cli: Any, tmp_path: Path) -> None:
    assert cli("demo", tmp_path).exit_code == 0
    assert cli("resume", tmp_path / "run", "--evaluations", 12).exit_code == 0
    done = cli("demo", tmp_path)
    assert done.exit_code == 0
    assert "--evaluations 24" in done.stdout
    assert open_run(tmp_path / "run").config.search.evaluations == 12
