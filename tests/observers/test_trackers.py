"""The trackers of other packages, without a network, where these packages are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from evomerge.observers import OBSERVERS
from evomerge.observers.base import Ended, RunObserver, Story

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def two_sessions(name: str, folder: Path) -> None:
    """A run that is stopped after one trial, goes on and ends."""
    story = Story(name="swahili", directory=folder, study="swahili-1a2b", settings={"method": "ties"})
    states: tuple[Literal["stopped", "done"], ...] = ("stopped", "done")
    for trial, state in enumerate(states):
        observer: RunObserver = OBSERVERS.get(name)("project")
        observer.begin(story)
        observer.point(trial, {"score/candidate": 0.25 + trial})
        observer.end(Ended(run="swahili", directory=str(folder), state=state, text="It won."))


def test_mlflow_has_one_run_for_all_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    from mlflow.tracking import MlflowClient

    two_sessions("mlflow", tmp_path)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("project")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("swahili", "FINISHED")
    assert run.data.params == {"method": "ties"}
    assert run.data.tags["evomerge.outcome"] == "It won."
    history = client.get_metric_history(run.info.run_id, "score/candidate")
    assert [(one.step, one.value) for one in history] == [(0, 0.25), (1, 1.25)]


def test_weights_and_biases_keeps_each_session_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb.sdk")
    monkeypatch.setenv("WANDB_MODE", "offline")
    two_sessions("wandb", tmp_path)
    written = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert {path.name for path in written} == {"run-swahili-1a2b.wandb"}
    content = b"".join(path.read_bytes() for path in written)
    assert b"score/candidate" in content
    assert b"It won." in content
