"""A run whose blocks of answers are lost while its evaluations aren't: they are asked again."""

from __future__ import annotations

import json
import shutil
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


def copied(run: Path, directory: Path) -> list[bytes]:
    """A copy of a search that was broken off; the lines of its blocks."""
    shutil.copytree(run, directory)
    return (directory / PARTS).read_bytes().splitlines(keepends=True)


def gone_on(directory: Path) -> tuple[dict[str, Any], list[str]]:
    listener = Listener()
    return comparable(resume(directory, observer=listener).data), listener.said


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("shortlist", "search", "validation", "test", "winner")}


PRUNERS: dict[str, dict[str, Any]] = {
    "median": {"block": 4, "pruner": "median", "pruner_options": {"rivals": 3}},
    "standard_error": {"block": 2, "pruner": "standard_error", "pruner_options": {"errors": 0.5, "items": 4}},
}

however_pruned = pytest.mark.parametrize("pruning", ["median"], indirect=True)
"""Of what is the same whether candidates are stopped alone or among a generation's."""


@pytest.fixture(scope="module", params=[*PRUNERS])
def pruning(request: pytest.FixtureRequest, config: Config) -> Config:
    return changed(config, search={"step_size": 1.0, "evaluations": 16, **PRUNERS[request.param]})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, pruning: Config) -> dict[str, Any]:
    """How the search ends undisturbed."""
    return comparable(search(pruning, tmp_path_factory.mktemp("whole") / "run").data)


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory, pruning: Config) -> dict[int, Path]:
    """The search as it was after so many evaluations: among the baselines, in the first generation and the second."""
    folder = tmp_path_factory.mktemp("broken off")
    found = {}
    for after, more in ((3, 3), (8, 5), (22, 14)):
        with pytest.raises(KeyboardInterrupt):
            search(pruning, folder / "run", observer=Interrupt(more))
        found[after] = Path(shutil.copytree(folder / "run", folder / str(after)))
    return found


def test_they_are_asked_again_and_the_search_ends_as_it_would_have(
    tmp_path: Path, broken_off: dict[int, Path], expected: dict[str, Any]
) -> None:
    lines = copied(broken_off[22], tmp_path / "run")
    had = Counter(json.loads(line)["trial"] for line in lines)
    ended = [trial for trial in open_run(tmp_path / "run").ledger().trials() if trial.state.is_finished]
    pruned = [trial for trial in ended if trial.state is TrialState.PRUNED]
    assert pruned
    assert all(trial.blocks == had[trial.number] for trial in pruned)
    (tmp_path / "run" / PARTS).write_bytes(b"".join(lines[:4]))
    result, said = gone_on(tmp_path / "run")
    assert result == expected
    (told,) = (sentence for sentence in said if "asked again" in sentence)
    left = Counter(json.loads(line)["trial"] for line in lines[:4])
    lost = sum(had[trial.number] > left[trial.number] for trial in ended)
    assert told.startswith(f"{PARTS}: answers of {counted(lost, 'trial')} are lost and asked again: ")


@however_pruned
def test_what_repair_keeps_is_gone_on_from(
    tmp_path: Path, broken_off: dict[int, Path], expected: dict[str, Any]
) -> None:
    lines = copied(broken_off[8], tmp_path / "run")
    lines[2] = lines[2].replace(b'"block"', b'"clock"')
    (tmp_path / "run" / PARTS).write_bytes(b"".join(lines))
    assert repair(tmp_path / "run")
    result, said = gone_on(tmp_path / "run")
    assert result == expected
    assert any("asked again" in sentence for sentence in said)


@however_pruned
def test_repair_counts_the_lines_that_are_gone(tmp_path: Path, broken_off: dict[int, Path]) -> None:
    lines = copied(broken_off[3], tmp_path / "run")
    (tmp_path / "run" / PARTS).write_bytes(b"".join([lines[0], *lines[2:]]))
    # What was lost is all of its trial.
    assert repair(tmp_path / "run") == [
        f"{PARTS}: kept {len(lines) - 1} of {len(lines)} lines of answers; the others are asked again where a search "
        "that goes on needs them"
    ]


@however_pruned
def test_an_answer_that_differs_from_the_record_is_told(
    tmp_path: Path, broken_off: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = copied(broken_off[8], tmp_path / "run")
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


@however_pruned
@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED], ids=lambda state: state.name)
def test_a_candidate_that_cannot_be_asked_again(
    tmp_path: Path,
    broken_off: dict[int, Path],
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    state: TrialState,
) -> None:
    lines = copied(broken_off[22], tmp_path / "run")
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
    assert gone_on(tmp_path / "run")[0] == expected
