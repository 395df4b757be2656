"""A machine without power: each file is what the disk was waited for, and nothing that was recorded is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.run.ledger import EVALUATIONS, JOURNAL, Ledger
from run.test_ledger import add, evaluation, reopen


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_every_recorded_evaluation_is_there_after_a_power_cut(
    steps: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Steps: 0 adds a trial, 1 kills the process and goes on, others record the first of those that are running."""
    directory = tmp_path_factory.mktemp("run")
    on_disk: dict[str, int] = {}

    def noted(handle: int) -> None:
        on_disk[Path(os.readlink(f"/proc/self/fd/{handle}")).name] = os.fstat(handle).st_size

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("evomerge.files.append.os.fsync", noted)
        ledger = Ledger.create(directory, "journal", "study")
        running: list[int] = []
        recorded: list[int] = []
        for step in steps:
            if step == 1:
                ledger = reopen(directory)
            elif step == 0 or not running:
                running.append(add(ledger))
            else:
                recorded.append(running.pop(0))
                ledger.record(evaluation(recorded[-1], score=recorded[-1] / 16))
    for name in (JOURNAL, EVALUATIONS):
        os.truncate(directory / name, on_disk.get(name, 0))
    after = reopen(directory)
    assert after.is_whole
    assert {trial.number: trial.score for trial in after.trials() if trial.state.is_finished} == {
        number: number / 16 for number in recorded
    }
    assert add(after) == len(after.trials()) - 1


def test_a_generation_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    ledger = Ledger.create(tmp_path, "journal", "study")
    monkeypatch.setattr(
        "evomerge.files.append.os.fsync",
        lambda handle: waits.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name),
    )
    trials = [add(ledger) for _ in range(8)]
    for trial in trials:
        ledger.record(evaluation(trial))
    assert waits == [JOURNAL, *[EVALUATIONS] * 8]
