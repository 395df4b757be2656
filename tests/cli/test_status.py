"""`evomerge status` of a run that is driven, stopped or over: screen, lines, JSON and exit codes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import status
from evomerge.cli.status import DONE, FAILED, RUNNING, STOPPED
from evomerge.run.clock import Clock
from evomerge.run.lock import lock
from evomerge.run.workers import WorkerNow, Workplace
from helpers.pages import text_of
from helpers.patience import LONG_S

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


@contextmanager
def driven(run: Path) -> Iterator[None]:
    """Inside, a thread drives the run until whoever watches has looked at it once."""
    driving, looked = threading.Event(), threading.Event()

    def drive() -> None:
        with lock(run):
            driving.set()
            looked.wait(LONG_S)

    thread = threading.Thread(target=drive)

    def rest(seconds: float) -> None:
        looked.set()
        thread.join()

    thread.start()
    driving.wait(LONG_S)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(status, "sleep", rest)
        yield
    looked.set()
    thread.join()


def test_watching_a_pipe_prints_timed_lines_when_something_changes_and_ends_with_the_driver(
    cli: Any, run: Path
) -> None:
    with driven(run):
        done = cli("status", run, "--watch")
    assert done.exit_code == STOPPED
    lines = [re.fullmatch(STAMP + "(.*)", line) for line in done.stdout.splitlines()]
    said = [line[1] for line in lines if line is not None]
    assert len(said) == len(lines)
    assert said[0] == "not started, 2 of 8 done, 1 running, 1 failed, best 0.6250"
    assert said[-1].startswith("stopped; continue with")
    assert len(said) in {2, 3}, "that the candidate is interrupted now may be a line of its own"


@pytest.mark.parametrize("watch", [["--watch"], ["-w"], ["--watch", "3"], ["--watch=0.5"]])
def test_watching_takes_seconds_or_none_and_ends_at_once_where_nobody_drives(
    cli: Any, run: Path, watch: list[str]
) -> None:
    for arguments in (["status", *watch, run], ["status", run, *watch]):
        assert cli(*arguments).exit_code == STOPPED


def test_the_exit_code_says_how_a_run_stands(cli: Any, run: Path, result: dict[str, Any]) -> None:
    assert cli("status", run).exit_code == STOPPED
    with lock(run):
        assert cli("status", run).exit_code == RUNNING
    Clock(run).stopped(RuntimeError("the cluster is lost"))
    failed = cli("status", run)
    assert failed.exit_code == FAILED
    assert "error       the cluster is lost" in failed.stdout
    Clock(run).stopped(KeyboardInterrupt())
    assert cli("status", run).exit_code == STOPPED
    (run / "result.json").write_text(json.dumps(result))
    assert cli("status", run).exit_code == DONE
    assert cli("status", run / "nowhere").exit_code == 1


def test_the_screen_shows_workers_failures_and_what_is_to_come_in_80_columns(cli: Any, run: Path) -> None:
    busy = [
        WorkerNow(
            name=f"node-{number}:4711",
            state="working",
            seconds=3700.0,
            trial=5,
            split="search",
            blocks=(number,) if number else (4, 7),
        )
        for number in range(9)
    ]
    idle = WorkerNow(name="node-9:4711", state="starting", seconds=5.0)
    (run / "progress.json").write_text(json.dumps({"phase": "search", "driving_seconds": 60, "rate_per_minute": 3.0}))
    with lock(run):
        Workplace(workers=(*busy, idle), utilisation=0.912, gpus=4).write(run)
        shown = cli("status", run).stdout
    lines = [line.rstrip() for line in shown.splitlines()]
    assert all(len(line) <= 80 for line in lines)
    words = " ".join(shown.split())
    for part in (
        "9 working, 1 starting; busy 91% of their time in this session",
        "node-0:4711 trial 5, search items, 2 blocks 1 h",
        "node-3:4711 trial 5, search items, block 3 1 h",
        "and 2 more: --json",
        "failures 1 not_finite; last not_finite: model.norm.weight [0] is inf",
        "lost workers: 2 preempted",
        "to come at most 7 search, 10 validation, 5 test evaluations",
        # 7 min 20 s on four GPUs.
        "about 7 min 20 s, 0.49 GPU hours, for all that is to come",
    ):
        assert part in words


def test_every_key_of_the_json_is_documented_and_every_documented_key_is_there(cli: Any, run: Path) -> None:
    with lock(run):
        Workplace(workers=(WorkerNow(name="inline", state="idle", seconds=1.0),)).write(run)
        done = cli("status", run, "--json")
    assert done.exit_code == RUNNING
    data = json.loads(done.stdout)
    assert (data["format"], data["state"], data["failures"]) == (1, "running", {"not_finite": 1})
    section = text_of("docs/run-directory.md").partition("## Status for scripts\n")[2].partition("\n## ")[0]
    documented = [key for row in re.findall(r"^\| (`.*?) \|", section, re.M) for key in re.findall(r"`(\w+)`", row)]
    assert len(documented) == len(set(documented))
    assert set(documented) == {*data, *data["workers"][0]}


def test_watching_as_json_prints_an_object_a_line_until_the_end(cli: Any, run: Path) -> None:
    with driven(run):
        done = cli("status", run, "--json", "--watch")
    states = [json.loads(line)["state"] for line in done.stdout.splitlines()]
    assert states == ["running", "stopped"]
    assert done.exit_code == STOPPED
