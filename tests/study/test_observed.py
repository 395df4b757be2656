"""Observers of a real search: told each number once over all sessions, and never in its way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.observers import OBSERVERS
from evomerge.observers.base import Ended, Story
from evomerge.run.directory import open_run
from evomerge.run.observer import SilentObserver
from evomerge.study.observed import numbers_of
from evomerge.study.search import resume, search
from helpers.search import Interrupt, changed

pytestmark = pytest.mark.slow

Points = list[tuple[int, str, float]]


class Recorder:
    """Keeps what it is told; the kinds of call that it is to fail at, it fails at."""

    takes_points = True
    begun: list[str] = []  # noqa: RUF012
    points: Points = []  # noqa: RUF012
    ended: list[Ended] = []  # noqa: RUF012

    def __init__(self, setting: Any) -> None:
        self.fails = setting == "failing"

    def begin(self, story: Story) -> None:
        self.begun.append(story.study)

    def point(self, trial: int, values: Mapping[str, float]) -> None:
        if self.fails:
            raise OSError("no route to host")
        self.points.extend((trial, name, value) for name, value in values.items())

    def end(self, ended: Ended) -> None:
        self.ended.append(ended)


class Hearing(SilentObserver):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def of(config: Config, observe: list[Any]) -> Config:
    small = changed(config, search={"evaluations": 8})
    return Config.from_data({**small.model_dump(mode="json"), "observe": observe})


def points_of(directory: Path) -> Points:
    """From the records of the run itself."""
    return sorted(
        (trial.number, name, value)
        for trial in open_run(directory).trials()
        for name, value in numbers_of(trial).items()
    )


def test_over_two_sessions_each_number_comes_once_also_to_an_observer_that_failed(
    config: Config, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    chosen, directory, hearing = of(config, ["tensorboard", {"recorder": "failing"}]), tmp_path / "run", Hearing()
    with OBSERVERS.extended({"recorder": f"{__name__}:Recorder"}):
        with pytest.raises(KeyboardInterrupt):
            search(chosen, directory, observer=Interrupt(9))
        again = Config.from_data({**chosen.model_dump(mode="json"), "observe": ["tensorboard", "recorder"]})
        result = search(again, directory, observer=hearing)
        resume(directory, observer=hearing)
    expected = points_of(directory)
    assert sorted(Recorder.points) == expected
    assert len(set(Recorder.begun)) == 1
    assert [(ended.state, ended.winner) for ended in Recorder.ended] == [("stopped", None), ("done", result.winner)]
    events = [
        (event.step, value.tag, value.tensor.float_val[0])
        for file in sorted((directory / "tensorboard").glob("events.*"))
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tensor.float_val
    ]
    assert [(step, tag) for step, tag, _ in sorted(events)] == [(step, tag) for step, tag, _ in expected]
    assert [value for *_, value in sorted(events)] == pytest.approx([value for *_, value in expected])
    assert not [said for said in hearing.said if said.startswith("observe")]


def test_an_observer_that_fails_is_said_once_and_one_that_is_unknown_leaves_no_trace(
    config: Config, tmp_path: Path
) -> None:
    hearing = Hearing()
    with OBSERVERS.extended({"recorder": f"{__name__}:Recorder"}):
        chosen = of(config, [{"recorder": "failing"}, {"command": f"cat > {tmp_path}/told"}])
        result = search(chosen, tmp_path / "run", observer=hearing)
    told = [said for said in hearing.said if said.startswith("observe")]
    assert told == ["observe: recorder: no route to host; the search doesn't depend on it"]
    data = json.loads((tmp_path / "told").read_text())
    assert (data["state"], data["run"], data["winner"]) == ("done", "run", result.winner)
    with pytest.raises(ConfigError, match=r"config: observe: unknown observer 'tensorbord'\. Did you mean"):
        search(of(config, ["tensorbord"]), tmp_path / "other")
    assert not (tmp_path / "other").exists()
