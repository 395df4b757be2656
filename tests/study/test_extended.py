"""A search that is given a larger budget and interrupted: what is said of it until it has ended again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evomerge.cli.status import DONE, STOPPED
from evomerge.cli.tables import marks_of
from evomerge.config.config import Config
from evomerge.run.directory import Run, open_run, update_config
from evomerge.run.ledger import Ledger
from evomerge.score.goals import Goals
from evomerge.study.export import export
from evomerge.study.search import resume, search
from helpers.commands import run as command
from helpers.search import Interrupt, changed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    directory = tmp_path_factory.mktemp("extended") / "run"
    search(changed(config, search={"evaluations": 8}), directory)
    return directory


@pytest.fixture
def run(ended: Path, tmp_path: Path) -> Run:
    """A copy of the run, which may be written into."""
    return open_run(shutil.copytree(ended, tmp_path / "run"))


def shown(run: Run) -> str:
    done = command(["status", run.directory])
    assert done.returncode == (DONE if run.has_ended() else STOPPED)
    return done.stdout


def extended(run: Run) -> None:
    """As a driver leaves it that was killed before its first evaluation."""
    update_config(run, changed(run.config, search={"evaluations": 12}))


def test_a_run_is_done_for_its_budget_alone_and_says_whose_winner_it_has(run: Run, tmp_path: Path) -> None:
    before, winner = run.result(), int(run.result()["winner"]["trial"])  # type: ignore[index]
    assert (run.has_ended(), run.status().phase) == (True, "done")
    assert marks_of(run)[winner] == "winner"
    assert "Next: evomerge export" in shown(run).replace("\n", " ")

    extended(run)
    run = open_run(run.directory)
    assert (run.has_ended(), run.status().phase) == (False, "not continued")
    assert "done\n" not in "".join(line for line in shown(run).splitlines(keepends=True) if line.startswith("phase"))
    assert "8 of 12 done" in shown(run)
    assert "held out" not in shown(run)
    assert marks_of(run)[winner] == "earlier winner"
    notes: list[str] = []
    export(run.directory, tmp_path / "merged", report=notes.append)
    assert f"the search hasn't ended; trial {winner} won when its budget was smaller" in notes

    with pytest.raises(KeyboardInterrupt):
        resume(run.directory, observer=Interrupt(3))
    status = open_run(run.directory).status()
    assert (status.phase, status.finished, status.budget) == ("search", 11, 12)
    assert "stopped during search" in shown(run)
    assert open_run(run.directory).result() == before

    resume(run.directory)
    run = open_run(run.directory)
    assert (run.has_ended(), run.status().phase, run.status().finished) == (True, "done", 12)
    assert run.result()["evaluations"] == 12  # type: ignore[index]


def test_an_extended_search_reads_its_ledger_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    read = Ledger.read

    def counted(directory: Path, storage: str, study_name: str, goals: Goals) -> Ledger:
        times.append(directory)
        return read(directory, storage, study_name, goals)

    monkeypatch.setattr(Ledger, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        resume(run.directory, evaluations=12, observer=Interrupt(1))
    assert len(times) == 1
