"""A run whose blocks of answers are lost while its evaluations aren't: they are asked again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.errors import ResumeError, counted
from evomerge.execute.base import Failure, Job, Outcome
from evomerge.execute.inline import InlineExecutor
from evomerge.run.answers import PARTS
from evomerge.run.directory import open_run
from evomerge.run.evaluation import Evaluation
from evomerge.run.repair import repair
from evomerge.run.trial import Trial, TrialState
from evomerge.study.candidates import Candidates
from evomerge.study.search import resume, search
from helpers.search import Interrupt, changed

pytestmark = pytest.mark.slow


class Listener(Interrupt):
    """Hears what a search says."""

    def __init__(self) -> None:
        super().__init__(10**9)
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def interrupted(directory: Path, config: Config, after: int) -> list[bytes]:
    """A search that was broken off; the lines of its blocks."""
    with pytest.raises(KeyboardInterrupt):
        search(config, directory, observer=Interrupt(after))
    return (directory / PARTS).read_bytes().splitlines(keepends=True)


def gone_on(directory: Path) -> tuple[dict[str, Any], list[str]]:
    listener = Listener()
    return comparable(resume(directory, observer=listener).data), listener.said


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("shortlist", "search", "validation", "test", "winner")}


PRUNERS = [
    {"step_size": 1.0, "block": 4, "pruner": "median", "pruner_options": {"rivals": 3}},
    {"step_size": 1.0, "block": 2, "pruner": "standard_error", "pruner_options": {"errors": 0.5, "items": 4}},
]


@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda settings: settings["pruner"])
def test_they_are_asked_again_and_the_search_ends_as_it_would_have(
    tmp_path: Path, config: Config, pruner: dict[str, Any]
) -> None:
    config = changed(config, search=pruner)
    undisturbed = comparable(search(config, tmp_path / "whole").data)
    lines = interrupted(tmp_path / "run", config, 22)
    had = Counter(json.loads(line)["trial"] for line in lines)
    ended = [trial for trial in open_run(tmp_path / "run").ledger().trials() if trial.state.is_finished]
    pruned = [trial for trial in ended if trial.state is TrialState.PRUNED]
    assert pruned
    assert all(trial.blocks == had[trial.number] for trial in pruned)
    (tmp_path / "run" / PARTS).write_bytes(b"".join(lines[:4]))
    result, said = gone_on(tmp_path / "run")
    assert result == undisturbed
    (told,) = (sentence for sentence in said if "asked again" in sentence)
    left = Counter(json.loads(line)["trial"] for line in lines[:4])
    lost = sum(had[trial.number] > left[trial.number] for trial in ended)
    assert told.startswith(f"{PARTS}: answers of {counted(lost, 'trial')} are lost and asked again: ")


def test_what_repair_keeps_is_gone_on_from(tmp_path: Path, config: Config) -> None:
    config = changed(config, search=PRUNERS[0])
    undisturbed = comparable(search(config, tmp_path / "whole").data)
    lines = interrupted(tmp_path / "run", config, 8)
    lines[2] = lines[2].replace(b'"block"', b'"clock"')
    (tmp_path / "run" / PARTS).write_bytes(b"".join(lines))
    assert repair(tmp_path / "run")
    result, said = gone_on(tmp_path / "run")
    assert result == undisturbed
    assert any("asked again" in sentence for sentence in said)


def test_repair_counts_the_lines_that_are_gone(tmp_path: Path, config: Config) -> None:
    lines = interrupted(tmp_path / "run", changed(config, search=PRUNERS[0]), 3)
    (tmp_path / "run" / PARTS).write_bytes(b"".join([lines[0], *lines[2:]]))
    # What was lost is all of its trial.
    assert repair(tmp_path / "run") == [
        f"{PARTS}: kept {len(lines) - 1} of {len(lines)} lines of answers; the others are asked again where a search "
        "that goes on needs them"
    ]


def test_an_answer_that_differs_from_the_record_is_told(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = interrupted(tmp_path / "run", changed(config, search=PRUNERS[0]), 8)
    scored = [one for one in open_run(tmp_path / "run").ledger().evaluations() if one.split == "search"]
    last = max(one.trial for one in scored)
    (tmp_path / "run" / PARTS).write_bytes(b"".join(line for line in lines if json.loads(line)["trial"] != last))
    repair(tmp_path / "run")
    assess = Candidates.assess

    def otherwise(self: Candidates, model: Trial, split: str, outcome: Outcome) -> Evaluation:
        found = assess(self, model, split, outcome)
        return replace(found, score=0.125) if model.state.is_finished else found

    monkeypatch.setattr(Candidates, "assess", otherwise)
    _, said = gone_on(tmp_path / "run")
    assert [sentence for sentence in said if "otherwise" in sentence] == [
        f"trial {last} answers otherwise than it did: score 0.125, where {scored[-1].score} is recorded. "
        "The record stands; others are judged by the new answers"
    ]


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED], ids=lambda state: state.name)
def test_a_candidate_that_cannot_be_asked_again(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, state: TrialState
) -> None:
    lines = interrupted(tmp_path / "run", changed(config, search=PRUNERS[0]), 22)
    ended = {one.number: one for one in open_run(tmp_path / "run").ledger().trials() if one.state.is_finished}
    lost = max(number for number, trial in ended.items() if trial.state is state and trial.generation is not None)
    whole = [line for line in lines if json.loads(line)["trial"] != lost]
    (tmp_path / "run" / PARTS).write_bytes(b"".join(whole))
    repair(tmp_path / "run")
    run = InlineExecutor.run

    def failing(self: InlineExecutor, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in run(self, jobs):
            fails = job.split == "search" and job.number == lost
            yield job, Failure(reason="out_of_memory", message="no room on this machine") if fails else outcome

    told = f"trial {lost} can't be asked again (no room on this machine); others are judged without it"
    with monkeypatch.context() as patched:
        patched.setattr(InlineExecutor, "run", failing)
        if state is TrialState.COMPLETE:
            _, said = gone_on(tmp_path / "run")
            assert told in said
            return
        with pytest.raises(ResumeError, match=rf"trial {lost} was stopped, .*no room on this machine"):
            gone_on(tmp_path / "run")
    undisturbed = comparable(search(changed(config, search=PRUNERS[0]), tmp_path / "whole").data)
    assert gone_on(tmp_path / "run")[0] == undisturbed
