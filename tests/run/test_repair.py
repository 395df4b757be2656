"""Repair: what can be proven good stays, the rest is told and moved aside, and the run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.run.answers import PARTS, Part, Parts
from evomerge.run.clock import Clock
from evomerge.run.consistency import problems
from evomerge.run.directory import create_run, open_run
from evomerge.run.ledger import EVALUATIONS, JOURNAL, Ledger
from evomerge.run.repair import ASIDE, repair
from evomerge.run.trial import TrialKind
from evomerge.score.requests import FunctionResponse
from helpers.records import without_checksums
from run.test_ledger import evaluation
from run.test_run import CONFIG, FACTS

TRIALS = 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of some trials, each with an evaluation and two blocks. Don't write into it."""
    directory = tmp_path_factory.mktemp("whole")
    create_run(directory, CONFIG, FACTS)
    ledger, parts = open_ledger(directory), Parts(directory, study(directory))
    for number in range(TRIALS):
        add(ledger, number)
        for block in range(2):
            parts.add(Part(trial=number, split="search", block=block, blocks=((FunctionResponse(0.5),),)))
        ledger.record(evaluation(number))
    Clock(directory).phase("search")
    assert problems(directory) == []
    assert repair(directory) == []
    assert not (directory / ASIDE).exists()
    return directory


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of that run to damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def study(directory: Path) -> str:
    return str(open_run(directory).facts["study"])


def open_ledger(directory: Path) -> Ledger:
    return Ledger.open(directory, "journal", study(directory))


def add(ledger: Ledger, number: int) -> None:
    ledger.add(kind=TrialKind.CANDIDATE, name=f"candidate {number}", recipe_key=f"key {number}", generation=0)


def lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def flipped(line: bytes) -> bytes:
    middle = len(line) // 2
    return line[:middle] + bytes([line[middle] ^ 4]) + line[middle + 1 :]


DAMAGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "flipped": lambda old: [*old[:3], flipped(old[3]), *old[4:]],
    "the first flipped": lambda old: [flipped(old[0]), *old[1:]],
    "lost": lambda old: [*old[:3], *old[4:]],
    "twice": lambda old: [*old[:4], *old[3:]],
    "exchanged": lambda old: [*old[:2], old[3], old[2], *old[4:]],
    "foreign": lambda old: [*old[:3], b'{"op_code":6}\n', *old[3:]],
    "other line ends": lambda old: [line.replace(b"\n", b"\r\n") for line in old],
}


@pytest.mark.parametrize("file", [JOURNAL, EVALUATIONS, PARTS])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_lines_is_named_repaired_and_the_run_goes_on(run: Path, file: str, damage: str) -> None:
    lines(run / file, DAMAGES[damage])
    damaged = (run / file).read_bytes()
    (problem,) = problems(run)
    assert f"{file}: line " in problem
    (sentence,) = repair(run)
    assert sentence.startswith(f"{file}: kept ")
    (aside,) = (run / ASIDE).iterdir()
    assert (aside / file).read_bytes() == damaged
    ledger = open_ledger(run)
    lost = set(range(TRIALS)) - {item.trial for item in ledger.evaluations()} - {number for number, _ in ledger._ahead}
    flawed = file == EVALUATIONS and damage in {"flipped", "the first flipped", "lost"}
    assert len(lost) == flawed
    while len(ledger.trials()) < TRIALS:
        add(ledger, len(ledger.trials()))
    for number in lost:
        ledger.record(evaluation(number))
    assert [trial.score for trial in open_ledger(run).trials()] == [0.5] * TRIALS
    assert all(item.table == evaluation(0).table for item in open_ledger(run).evaluations())
    whole = sum(len(Parts(run, study(run)).of(number, "search")) for number in range(TRIALS))
    assert 2 * TRIALS - whole <= (2 if file == PARTS else 0)
    assert problems(run) == []


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"format": 2}'])
def test_run_json_is_restored_from_its_copy_in_the_study(run: Path, text: str | None) -> None:
    facts = open_run(run).facts
    (run / "run.json").unlink()
    if text is not None:
        (run / "run.json").write_text(text)
    assert repair(run) == ["run.json: restored from the copy in the study"]
    assert open_run(run).facts == facts


@pytest.mark.parametrize(("file", "words"), [("config.yaml", "restored as it was"), ("progress.json", "lost")])
def test_a_flipped_bit_in_another_file_is_named_and_repaired(run: Path, file: str, words: str) -> None:
    (run / file).write_bytes(flipped((run / file).read_bytes()))
    assert file in problems(run)[0]
    (sentence,) = repair(run)
    assert sentence.startswith(f"{file}: {words}")
    assert problems(run) == []
    assert open_run(run).config == CONFIG


def test_a_config_that_was_changed_by_hand_is_taken_if_it_is_the_same_experiment(run: Path) -> None:
    text = (run / "config.yaml").read_text().replace("evaluations: 200", "evaluations: 300")
    (run / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=r"config\.yaml: isn't as it was written.*delete its last line"):
        open_run(run)
    lines(run / "config.yaml", lambda old: old[:-1])
    assert open_run(run).config.search.evaluations == 300
    lines(run / "config.yaml", lambda old: [line.replace(b"seed: 0", b"seed: 1") for line in old])
    with pytest.raises(RunError, match=r"config\.yaml: isn't of the experiment.*seed \(0 → 1\)"):
        open_run(run)


def result(score: float = 0.5, trial: int = 1) -> dict[str, Any]:
    splits = {split: {"models": []} for split in ("validation", "test")}
    model = {"trial": trial, "kind": "winner", "score": score}
    winner = {"trial": trial, "kind": "candidate"}
    return {"winner": winner, "shortlist": [], "budget": {"evaluations": 5}, "search": {"models": [model]}, **splits}


@pytest.mark.parametrize("found", [result(score=0.75), {"winner": 1}, [], "x"])
def test_a_result_that_the_evaluations_contradict_is_named_and_moved_aside(run: Path, found: Any) -> None:
    (run / "result.json").write_text(json.dumps(result()))
    assert problems(run) == []
    (run / "result.json").write_text(json.dumps(found))
    (problem,) = problems(run)
    assert "result.json" in problem
    assert repair(run) == ["result.json: lost; the search writes it again"]
    assert problems(run) == []


def test_what_cannot_be_proven_by_checksums_is_kept_if_it_can_be_read(run: Path) -> None:
    for name in (JOURNAL, EVALUATIONS, PARTS):
        without_checksums(run / name)
    assert problems(run) == []
    assert repair(run) == []
    lines(run / EVALUATIONS, lambda old: [*old[:2], old[2][:40] + b"\n", *old[3:]])
    assert "line 3 is damaged" in problems(run)[0]
    assert repair(run) == ["evaluations.jsonl: kept 4 of 5 evaluations"]
    assert open_ledger(run).lost == [2]


def test_a_folder_of_something_else_is_not_repaired(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="not a run directory"):
        repair(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_without_a_good_copy_of_its_facts_is_left_as_it_is(run: Path) -> None:
    for name in ("run.json", JOURNAL):
        (run / name).write_text("?")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(RunError, match=r"run\.json.*so it can't be repaired"):
        repair(run)
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(run)
