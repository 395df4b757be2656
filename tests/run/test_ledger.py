"""The ledger: durability, repair and Optuna's own view of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from evomerge.errors import RunError
from evomerge.run.evaluation import Evaluation
from evomerge.run.ledger import EVALUATIONS, JOURNAL, Ledger
from evomerge.run.trial import TrialKind
from evomerge.score.table import ItemAnswers, ItemTable, TaskScores
from evomerge.space.base import Dimension
from helpers.records import without_checksums

DIMENSIONS = (Dimension(name="weight.a", low=0.0, high=1.0, initial=0.5),)
ANSWERS = ItemAnswers.of([[-1.5, -2.5], [-0.25]], [[], []], [12, 9])
TABLE = ItemTable(
    tasks={
        "t": TaskScores(items=("i1", "i2"), values={"acc,none": (1.0, 0.0)}, tie_break=(0.75, 0.125), answers=ANSWERS)
    }
)


def create(directory: Path) -> Ledger:
    return Ledger.create(directory, "journal", "study")


def reopen(directory: Path) -> Ledger:
    return Ledger.open(directory, "journal", "study")


def add(ledger: Ledger, value: float = 0.3) -> int:
    return ledger.add(
        kind="candidate", name="c", recipe_key="k", generation=0, parameters={"weight.a": value}, dimensions=DIMENSIONS
    ).number


def evaluation(trial: int, score: float = 0.5) -> Evaluation:
    return Evaluation(
        trial=trial,
        split="search",
        score=score,
        tie_break=0.01,
        table=TABLE,
        aggregates={"t": {"acc,none": 0.5}},
        seconds={"respond": 1.5},
        peak_bytes=7,
        worker="w",
        lost_workers=("preempted", "worker_died"),
    )


def test_what_is_recorded_reads_back_exactly(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    number = add(ledger, 0.1 + 0.2)
    ledger.record(evaluation(number))
    read = Ledger.read(tmp_path, "journal", "study")
    assert read.evaluations() == [evaluation(number)]
    (trial,) = read.trials()
    assert (trial.state, trial.score, trial.parameters) == ("complete", 0.5, {"weight.a": 0.1 + 0.2})


def test_optuna_reads_the_study_with_its_own_calls(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    for score in (0.2, 0.9):
        ledger.record(evaluation(add(ledger), score))
    ledger.record(Evaluation(trial=add(ledger), split="search", failure="not_finite: x"))
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    study = optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend))
    assert study.best_value == 0.9
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]


def test_attributes_that_a_dashboard_adds_between_trials_are_taken_as_they_are(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    ledger.record(evaluation(add(ledger)))
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    study = optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend))
    study.set_user_attr("note", "promising")
    ledger.record(evaluation(add(ledger)))
    assert [trial.score for trial in reopen(tmp_path).trials()] == [0.5, 0.5]
    assert "promising" in (tmp_path / JOURNAL).read_text()
    study.add_trial(optuna.trial.create_trial(value=0.9, params={}))
    with pytest.raises(RunError, match=rf"{JOURNAL}: line 9 is damaged \(it has no checksum"):
        reopen(tmp_path)


@pytest.mark.slow
def test_sqlite_works_as_any_optuna_url(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    ledger = Ledger.create(tmp_path, storage, "study")
    ledger.record(evaluation(add(ledger)))
    assert Ledger.open(tmp_path, storage, "study").trials()[0].score == 0.5


def test_a_crash_between_evaluation_and_study_is_mended_on_opening(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    number = add(ledger)
    with (tmp_path / EVALUATIONS).open("a") as file:
        file.write(evaluation(number).to_line())
    assert Ledger.read(tmp_path, "journal", "study").trials()[0].state == "running"
    assert reopen(tmp_path).trials()[0].score == 0.5


@pytest.mark.parametrize("file", [JOURNAL, EVALUATIONS])
@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path: Path, file: str, cut: int) -> None:
    ledger = create(tmp_path)
    for _ in range(3):
        ledger.record(evaluation(add(ledger)))
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-cut])
    mended = reopen(tmp_path)
    assert len(mended.trials()) == 3
    assert [item.trial for item in mended.evaluations()][:2] == [0, 1]
    mended.record(evaluation(add(mended)))
    again = reopen(tmp_path)
    assert again.evaluation(3, "search") == evaluation(3)
    assert again.trials()[3].score == 0.5


def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    for _ in range(3):
        ledger.record(evaluation(add(ledger)))
    path = tmp_path / EVALUATIONS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], lines[2], ""]))
    before = path.read_bytes()
    with pytest.raises(RunError, match="line 2 is damaged"):
        reopen(tmp_path)
    assert path.read_bytes() == before


def test_a_lock_file_of_optuna_does_not_block(tmp_path: Path) -> None:
    create(tmp_path)
    (tmp_path / f"{JOURNAL}.lock").touch()
    ledger = reopen(tmp_path)
    ledger.record(evaluation(add(ledger)))
    assert ledger.trials()[0].score == 0.5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_a_write_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    sync = os.fsync

    def sync_at_a_bad_moment(handle: int) -> None:
        signal.raise_signal(number)
        sync(handle)

    ledger = create(tmp_path)
    trial = add(ledger)
    before = signal.signal(number, stop)
    try:
        with monkeypatch.context() as patched:
            patched.setattr("evomerge.files.append.os.fsync", sync_at_a_bad_moment)
            with pytest.raises(KeyboardInterrupt):
                ledger.record(evaluation(trial))
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert [found.state for found in reopen(tmp_path).trials()] == ["complete"]
    assert add(ledger) == trial + 1


def test_a_full_disk_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    """A file-size limit makes writes fail midway, as a full disk does."""
    script = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from run.test_ledger import add, create, evaluation
        from evomerge.errors import RunError
        ledger = create(Path(sys.argv[1]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        done = 0
        try:
            while True:
                ledger.record(evaluation(add(ledger)))
                done += 1
        except RunError as error:
            print(done)
            print(error)
        """
    )
    here = str(Path(__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), here], capture_output=True, text=True, check=True
    )
    done, message = found.stdout.split("\n", 1)
    assert "can't be written" in message
    assert "evomerge resume" in message
    ledger = reopen(tmp_path)
    assert int(done) > 3
    assert sum(trial.state == "complete" for trial in ledger.trials()) >= int(done)
    assert len(ledger.evaluations()) >= int(done)
    ledger.record(evaluation(add(ledger)))
    assert reopen(tmp_path).trials()[-1].score == 0.5


def test_every_line_is_plain_json(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    ledger.record(evaluation(add(ledger)))
    (line,) = (tmp_path / EVALUATIONS).read_text().splitlines()
    assert json.loads(line)["aggregates"] == {"t": {"acc,none": 0.5}}
    assert list(json.loads(line)["items"].values()) == [["i1", "i2"]]


def test_a_list_of_items_is_written_once_also_after_reopening(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    ledger.record(evaluation(add(ledger)))
    ledger.record(evaluation(add(ledger)))
    again = reopen(tmp_path)
    again.record(evaluation(add(again)))
    lines = [json.loads(line) for line in (tmp_path / EVALUATIONS).read_text().splitlines()]
    assert ["items" in line for line in lines] == [True, False, False]
    assert [item.table for item in reopen(tmp_path).evaluations()] == [TABLE] * 3


def test_a_copy_has_the_table_of_its_original_without_writing_it_again(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    ledger.record(evaluation(add(ledger)))
    copy = replace(evaluation(add(ledger)), same_as=0)
    ledger.record(copy)
    assert "table" not in json.loads((tmp_path / EVALUATIONS).read_text().splitlines()[1])
    assert reopen(tmp_path).evaluation(1, "search") == copy


def test_tables_of_the_first_format_are_read_and_the_run_is_continued(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    data = json.loads(evaluation(add(ledger)).to_line())
    del data["table"], data["items"]
    data["tasks"] = {"t": {"items": ["i1", "i2"], "values": {"acc,none": [1.0, 0.0]}, "tie_break": [0.75, 0.125]}}
    (tmp_path / EVALUATIONS).write_text(json.dumps(data) + "\n")
    again = reopen(tmp_path)
    again.record(evaluation(add(again)))
    first, second = reopen(tmp_path).evaluations()
    assert first.table is not None
    assert second.table is not None
    assert first.table.tasks["t"].answers is None
    assert replace(first.table.tasks["t"], answers=ANSWERS) == second.table.tasks["t"]


def test_evaluations_of_trials_that_the_study_lost_are_taken_over_by_the_same_trials(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    for key in ("k0", "k1", "k2"):
        number = add_with_key(ledger, key)
        ledger.record(evaluation(number))
    journal = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join(journal[:3]))
    again = reopen(tmp_path)
    assert [trial.state for trial in again.trials()] == ["complete"]
    assert [item.trial for item in again.evaluations()] == [0]
    assert again.trial(add_with_key(again, "k1")).score == 0.5
    # Another recipe than before: the evaluation isn't its own.
    assert again.trial(add_with_key(again, "other")).state == "running"
    assert again.evaluation(2, "search") is None
    again.record(evaluation(2, 0.75))
    assert [item.score for item in reopen(tmp_path).evaluations()] == [0.5, 0.5, 0.75]


def add_with_key(ledger: Ledger, key: str) -> int:
    return ledger.add(kind=TrialKind.CANDIDATE, name="c", recipe_key=key, generation=0).number


def test_evaluations_that_are_lost_are_counted_and_may_be_made_again_with_the_same_score_only(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    for _ in range(2):
        ledger.record(evaluation(add(ledger)))
    lines = (tmp_path / EVALUATIONS).read_bytes().splitlines(keepends=True)
    (tmp_path / EVALUATIONS).write_bytes(lines[0])
    again = reopen(tmp_path)
    assert again.lost == [1]
    with pytest.raises(RunError, match=r"trial 1 is complete with score 0\.5 in study\.journal.*has score 0\.25"):
        again.record(evaluation(1, 0.25))
    again.record(evaluation(1))
    assert reopen(tmp_path).lost == []


def test_a_study_without_checksums_that_disagrees_with_its_evaluations_is_refused(tmp_path: Path) -> None:
    ledger = create(tmp_path)
    ledger.record(evaluation(add(ledger)))
    for name in (JOURNAL, EVALUATIONS):
        without_checksums(tmp_path / name)
    assert reopen(tmp_path).trials()[0].score == 0.5
    journal = tmp_path / JOURNAL
    journal.write_text(journal.read_text().replace('"values":[0.5]', '"values":[0.7]'))
    with pytest.raises(RunError, match=r"score 0\.7 in study\.journal.*score 0\.5"):
        reopen(tmp_path)


@pytest.mark.parametrize("line", ['{"op_code":99,"worker_id":"x"}', '{"op_code":4}', "[]", "1"])
def test_a_line_that_optuna_cannot_replay_is_named(tmp_path: Path, line: str) -> None:
    ledger = create(tmp_path)
    ledger.record(evaluation(add(ledger)))
    without_checksums(tmp_path / JOURNAL)
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    (tmp_path / JOURNAL).write_text("\n".join([*lines[:2], line, *lines[2:], ""]))
    with pytest.raises(RunError, match=rf"{JOURNAL}: line 3 is damaged"):
        reopen(tmp_path)
