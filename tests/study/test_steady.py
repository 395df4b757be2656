"""Asynchronous searches: each candidate told when it is known, and nothing lost when the driver dies."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.cli.progress import Progress
from evomerge.cli.screens import PlainScreen
from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.execute.base import Executor, Failure, Job, Outcome
from evomerge.run.directory import open_run
from evomerge.run.trial import Trial
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.executors import Shuffled, Stops, executors, stopped
from helpers.search import Count, Interrupt, changed, kill_after_lines, start

pytestmark = pytest.mark.slow

_IN_FLIGHT = 3


@pytest.fixture(scope="module")
def steady(config: Config) -> Config:
    settings = {"evaluations": 20, "population": 4, "scan": 2, "shortlist": 2, "block": 6}
    return changed(config, search=settings | {"mode": "asynchronous", "in_flight": _IN_FLIGHT})


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory, steady: Config) -> Path:
    directory = tmp_path_factory.mktemp("steady") / "run"
    search(steady, directory)
    return directory


def candidates(directory: Path) -> list[Trial]:
    return [trial for trial in open_run(directory).ledger().trials() if trial.kind == "candidate"]


def test_as_many_candidates_are_in_flight_as_asked_for_and_each_is_told_before_the_next_is_asked(
    in_order: Path,
) -> None:
    trials, told = candidates(in_order), 0
    assert len(trials) == 20
    for asked, trial in enumerate(trials):
        told += len(trial.told)
        # One at a time here, so whoever is asked replaces the one that ended.
        assert asked - told == min(asked, _IN_FLIGHT - 1)
    result = open_run(in_order).result()
    assert result is not None
    assert result["mode"] == "asynchronous"


@pytest.mark.parametrize("after", [8, 13])
def test_an_interrupted_search_whose_workers_answer_in_order_ends_as_an_undisturbed_one(
    tmp_path: Path, steady: Config, in_order: Path, after: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(steady, tmp_path / "run", observer=Interrupt(after))
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(in_order)
    assert [trial.told for trial in candidates(tmp_path / "run")] == [trial.told for trial in candidates(in_order)]


def test_a_driver_that_is_killed_loses_nothing(tmp_path: Path, steady: Config, in_order: Path) -> None:
    (tmp_path / "steady.yaml").write_text(steady.to_yaml(), encoding="utf-8")
    directory = tmp_path / "run"
    process = start(tmp_path / "steady.yaml", directory)
    kill_after_lines(process, directory / "evaluations.jsonl", 13)
    assert process.returncode == -signal.SIGKILL
    before = (directory / "evaluations.jsonl").read_bytes().rpartition(b"\n")[0]
    assert open_run(directory).result() is None
    resume(directory)
    assert (directory / "evaluations.jsonl").read_bytes().startswith(before)
    assert essence(directory) == essence(in_order)


def test_screens_speak_of_results_where_there_are_no_generations(in_order: Path) -> None:
    out = io.StringIO()
    screen = PlainScreen(Console(file=out, width=240), Progress(in_order))
    screen.phase("search", 20)
    trials = [record for record in open_run(in_order).trials() if record.kind == "candidate"]
    for record in trials[:4]:
        screen.trial(record)
    screen.generation(0, 0.5, 0.25, 0)
    assert "last 4 results: best fitness 0.5000, median 0.2500" in out.getvalue()
    for command in (["status"], ["trials"], ["trials", "--trial", str(trials[0].number)]):
        shown = CliRunner().invoke(app, [command[0], str(in_order), *command[1:]])
        assert "generation" not in shown.output, shown.output
    assert "median      fitness" in CliRunner().invoke(app, ["status", str(in_order)]).output


class Breaking(Shuffled):
    """Answers in any order, and some candidates fail."""

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        for job, outcome in super().run(jobs):
            fails = job.split == "search" and job.number > 5 and job.number % 5 == 0
            yield job, Failure(reason="error", message="broken") if fails else outcome


def test_whatever_order_candidates_end_in_nothing_is_lost_and_the_record_is_replayed(
    tmp_path: Path, steady: Config
) -> None:
    directory = tmp_path / "run"

    def broken(made: Executor) -> Executor:
        return Stops(Breaking(made), after=26)

    with executors(broken), pytest.raises(KeyboardInterrupt):
        search(steady, directory)
    before = {found.trial: found for found in open_run(directory).ledger().evaluations()}
    told = [trial.told for trial in candidates(directory)]
    with stopped(after=6):
        resume(directory)
    again = Count()
    with executors(Breaking):
        resume(directory, observer=again)
    assert not set(again.evaluated) & {trial for trial, found in before.items() if found.split != "search"}
    trials = candidates(directory)
    assert [trial.told for trial in trials][: len(told)] == told
    assert len(trials) == 20
    assert {trial.state for trial in trials} == {"complete", "failed"}
    # More of it goes on from the same record, which another proposer has to ask and tell again.
    with executors(Breaking):
        resume(directory, evaluations=24)
    assert len(candidates(directory)) == 24


def test_a_lost_evaluation_is_made_again_and_told_in_its_place(tmp_path: Path, steady: Config, in_order: Path) -> None:
    directory = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(steady, directory, observer=Interrupt(17))
    file = directory / "evaluations.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-3]))
    resume(directory)
    assert essence(directory)["trials"] == essence(in_order)["trials"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "asynchronous", "pruner": "racing", "block": 4}, r"pruner 'racing' .* use pruner: none, or mode"),
        ({"mode": "asynchronous", "items": "fresh", "block": 4}, "use items: fixed, or mode: generations"),
        ({"in_flight": 4}, "in_flight is of mode: asynchronous"),
        ({"mode": "steady"}, "search.mode: must be generations or asynchronous"),
    ],
)
def test_what_needs_generations_is_refused_with_the_remedy(
    config: Config, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        changed(config, search=settings)


def test_an_algorithm_that_takes_generations_alone_is_refused_with_those_that_do_not(
    tmp_path: Path, config: Config
) -> None:
    wrong = changed(config, search={"mode": "asynchronous", "algorithm": "cma_lra"})
    with pytest.raises(ConfigError, match=r"search\.mode: cma_lra proposes whole generations.*\(cma, .*tpe"):
        search(wrong, tmp_path / "run")


@pytest.mark.parametrize("mode", ["generations", "asynchronous"])
def test_an_algorithm_that_learns_from_items_is_told_of_them_again(tmp_path: Path, config: Config, mode: str) -> None:
    settings = {"evaluations": 12, "population": 4, "scan": 1, "shortlist": 1, "algorithm": "m2n2"}
    own = changed(config, search=settings | {"mode": mode, "options": {"archive": 3}})
    search(own, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(own, tmp_path / "run", observer=Interrupt(11))
    resume(tmp_path / "run")
    assert essence(tmp_path / "run") == essence(tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": "fresh", "block": 4, "items_per_candidate": 4}, "m2n2 compares .* use items: fixed"),
        ({"constraints": {"kept": {"tasks": "tiny_choice", "at_least": 0.1}}}, "search.constraints are given"),
    ],
)
def test_an_algorithm_that_learns_from_items_is_refused_without_them(
    tmp_path: Path, config: Config, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search(changed(config, search={"algorithm": "m2n2", **settings}), tmp_path / "run")
