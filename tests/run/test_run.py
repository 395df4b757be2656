"""The run directory: lock, atomic files, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import LockedError, ResumeError, RunError
from evomerge.files.atomic import write_atomically
from evomerge.run.clock import Clock
from evomerge.run.directory import create_run, open_run, update_config
from evomerge.run.identity import check_same_experiment
from evomerge.run.lock import is_locked, lock
from evomerge.run.trial import TrialKind
from helpers.patience import LONG_S

CONFIG = Config.from_yaml("{models: {base: a, experts: {x: b}}, benchmark: {tasks: [t]}}")
FACTS = {
    "identity": CONFIG.identity(),
    "dtype": "float32",
    "options": {},
    "places": [[0, "attention"], [1, "mlp"]],
    "items": {"test": "abc"},
    "population": 8,
}


def test_a_second_driver_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    directory = tmp_path / "run with 'quotes' and spaces"
    hold = "import sys, time; from pathlib import Path; from evomerge.run.lock import lock\n"
    hold += "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid} on .* is driving this run"), lock(directory):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]
    with lock(directory):
        pass


def test_a_refused_start_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad config"), lock(tmp_path / "new"):
        raise ValueError("bad config")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="can't be written"), lock(tmp_path / "file" / "run"):
        pass


def test_a_run_opens_again_with_its_config_and_facts(tmp_path: Path) -> None:
    create_run(tmp_path, CONFIG, FACTS)
    run = open_run(tmp_path)
    assert run.config == CONFIG
    assert run.facts["population"] == 8
    assert run.trials() == []
    assert run.result() is None
    assert run.status().phase == "not started"
    assert not run.status().driver_alive


@pytest.mark.slow
def test_status_sees_a_driver_at_work(tmp_path: Path) -> None:
    create_run(tmp_path, CONFIG, FACTS)
    with lock(tmp_path):
        Clock(tmp_path).phase("search")
        script = "import sys; from evomerge.run.directory import open_run; print(open_run(sys.argv[1]).status())"
        found = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
        )
    assert "driver_alive=True" in found.stdout
    assert "phase='search'" in found.stdout


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a run directory: there is no run\.json"):
        open_run(tmp_path)


def test_a_crash_while_creating_leaves_a_directory_that_can_be_created_again(tmp_path: Path) -> None:
    create_run(tmp_path, CONFIG, FACTS)
    (tmp_path / "run.json").unlink()
    create_run(tmp_path, CONFIG, FACTS)
    assert open_run(tmp_path).trials() == []


def test_another_experiment_is_refused_with_every_difference(tmp_path: Path) -> None:
    run = create_run(tmp_path, CONFIG, FACTS)
    other = Config.from_yaml(
        "{models: {base: a, experts: {x: c}}, benchmark: {tasks: [t]}, space: {blocks: 6}, search: {evaluations: 9}}"
    )
    with pytest.raises(ResumeError) as error:
        check_same_experiment(run, {**FACTS, "identity": other.identity(), "dtype": "bfloat16"}, where="new.yaml")
    message = str(error.value)
    assert 'models.experts.x.path ("b" → "c")' in message
    assert "space.blocks (4 → 6)" in message
    assert 'the dtype ("float32" → "bfloat16")' in message
    assert "new.yaml" in message
    assert "evaluations" not in message


def test_a_key_that_is_newer_than_the_run_is_as_the_runs_config_has_it(tmp_path: Path) -> None:
    recorded = json.loads(json.dumps(CONFIG.identity()))
    del recorded["models"]["vocabulary"]
    del recorded["search"]["block"]
    del recorded["benchmark"]["tasks"][0]["language"]
    run = create_run(tmp_path, CONFIG, {**FACTS, "identity": recorded})
    check_same_experiment(run, FACTS, where="new.yaml")
    other = Config.from_yaml(
        "{models: {base: a, experts: {x: b}, vocabulary: union}, benchmark: {tasks: [{task: t, language: sw}]}}"
    )
    with pytest.raises(ResumeError, match=r'models\.vocabulary \("same" → "union"\); benchmark\.tasks'):
        check_same_experiment(run, {**FACTS, "identity": other.identity()}, where="new.yaml")


def test_a_larger_budget_is_taken_over_but_another_storage_is_not(tmp_path: Path) -> None:
    run = create_run(tmp_path, CONFIG, FACTS)
    larger = CONFIG.model_copy(update={"search": CONFIG.search.model_copy(update={"evaluations": 500})})
    update_config(run, larger)
    assert open_run(tmp_path).config.search.evaluations == 500
    with pytest.raises(ResumeError, match="its trials are in storage 'journal'"):
        update_config(run, CONFIG.model_copy(update={"storage": "sqlite:///x.db"}))


def test_driving_time_adds_up_over_resumes(tmp_path: Path) -> None:
    first = Clock(tmp_path)
    time.sleep(0.2)
    first.phase("search")
    second = Clock(tmp_path)
    assert second.hours * 3600 >= json.loads((tmp_path / "progress.json").read_text())["driving_seconds"] >= 0.1


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", "old")
    (tmp_path / ".x.tmp").mkdir()
    with pytest.raises(RunError, match="can't be written"):
        write_atomically(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"


def test_a_folder_of_something_else_does_not_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"holds thesis\.tex and no run"):
        create_run(tmp_path, CONFIG, FACTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["study.journal.lock", "study.journal.lock1b2c.rename", ".run.json.tmp"])
def test_what_a_killed_driver_left_half_made_does_not_block_and_is_deleted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    create_run(tmp_path, CONFIG, FACTS)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["evaluations.jsonl", "study.journal"])
def test_records_without_run_json_are_not_taken_for_a_start_that_was_killed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}\n" * 3)
    with pytest.raises(RunError, match=r"holds the records of a run, but run\.json is missing"):
        create_run(tmp_path, CONFIG, FACTS)
    assert (tmp_path / name).read_text() == "{}\n" * 3


def test_the_rate_leaves_out_what_came_before_the_first_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.run import clock as module

    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    clock = Clock(tmp_path)
    clock.phase("search")
    now[0] += 600  # workers start
    for _ in range(4):
        now[0] += 2
        clock.evaluated(2.0)
    assert json.loads((tmp_path / "progress.json").read_text())["rate_per_minute"] == 30.0


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(RunError, match="the file system has no locks") as error, lock(tmp_path):
        pass
    assert not isinstance(error.value, LockedError)
    assert not is_locked(tmp_path)


def test_a_driver_waits_for_another_to_end_and_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    held, over = threading.Event(), threading.Event()

    def other() -> None:
        with lock(tmp_path):
            held.set()
            over.wait(LONG_S)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(LONG_S)
    with pytest.raises(LockedError, match="is driving this run, also after 0 s"), lock(tmp_path, wait_s=0.05):
        pass
    threading.Timer(0.2, over.set).start()
    with lock(tmp_path, wait_s=20, told=said.append):
        thread.join()
    assert len(said) == 1
    assert f"process {os.getpid()} on" in said[0]
    assert "waiting up to 20 s" in said[0]


def test_a_directory_that_vanishes_while_it_is_driven_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with lock(directory):
        create_run(directory, CONFIG, FACTS)
        ledger = open_run(directory).ledger()
        shutil.rmtree(directory)
        with pytest.raises(RunError, match=f"{directory}: can't be written: No such file"):
            ledger.add(kind=TrialKind.BASE, name="base", recipe_key="k")
    assert not directory.exists()
    with pytest.raises(RunError, match=str(directory)):
        write_atomically(directory / "progress.json", "{}")
