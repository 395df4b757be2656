"""What cannot work, or is another experiment, is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, ConfigError, ExecutionError, LockedError, ResumeError
from evomerge.run.lock import lock
from evomerge.study.search import search
from helpers.search import Interrupt, changed, essence, write_config, write_task


def test_another_config_or_a_second_driver_is_refused_and_nothing_changes(
    tmp_path: Path, config: Config, undisturbed: Path
) -> None:
    before = essence(undisturbed)
    with pytest.raises(ResumeError, match=r"search\.seed \(0 → 1\)"):
        search(changed(config, search={"seed": 1}), undisturbed)
    with lock(tmp_path / "run"), pytest.raises(LockedError, match="is driving this run"):
        search(config, tmp_path / "run")
    assert essence(undisturbed) == before


def test_changed_documents_are_refused_on_resume(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    tasks = write_task(tmp_path / "tasks")
    config = Config.from_file(write_config(tmp_path / "x.yaml", tiny_llama, tasks))
    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "run", observer=Interrupt(5))
    lines = (tasks / "test.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["question"] = "another question?"
    (tasks / "test.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    with pytest.raises(ResumeError, match="items"):
        search(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"merge": {"method": "tyes"}}, ConfigError, r"merge\.method: unknown merge method 'tyes'.*'ties'"),
        ({"merge": {"options": {"normalise": True}}}, ConfigError, r"merge\.options"),
        ({"search": {"algorithm": "cmaes"}}, ConfigError, r"search\.algorithm: unknown search algorithm 'cmaes'"),
        ({"search": {"options": {"nope": 1}}}, ConfigError, r"search\.options\.nope"),
        ({"benchmark": {"tasks": ["no_such_task"]}}, BenchmarkError, r"no_such_task"),
        ({"benchmark": {"tasks": [{"task": "tiny_choice", "metric": "f2"}]}}, BenchmarkError, r"f2"),
        ({"benchmark": {"splits": {"search": {"split": "train"}}}}, BenchmarkError, r"train"),
        ({"benchmark": {"splits": {"search": {"fraction": 0.001}}}}, BenchmarkError, r"search"),
        (
            {"benchmark": {"splits": {"search": "test", "validation": "validation", "test": "test"}}},
            BenchmarkError,
            r"test",
        ),
        ({"merge": {"method": "slerp"}, "models": {"experts": {}}}, ConfigError, r"models\.experts"),
        ({"execution": {"device": "cuda"}}, ExecutionError, r"no usable GPU"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, config: Config, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        search(changed(config, **changes), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
