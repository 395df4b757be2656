"""Processes that prepare the same states at the same time, hang, or are killed."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from evomerge.materialise import states as stored_states
from evomerge.methods import METHODS
from helpers.merging import prepared
from helpers.prepared import equal, files_of, merged, merger_of, recipe_of, start

pytestmark = pytest.mark.usefixtures("noted")


@pytest.mark.slow
def test_processes_that_start_together_share_the_tensors_out(tmp_path: Path, models: list[Path], notes: Path) -> None:
    workers = [start(tmp_path / "states", tmp_path / f"out-{index}", models, SECONDS="0.05") for index in range(2)]
    for worker in workers:
        worker.go()
    assert [worker.wait()[0] for worker in workers] == [0, 0]
    computed = [line.split() for line in notes.read_text().splitlines()]
    merger = merger_of(models, None)
    assert sorted(name for _, name in computed) == sorted(merger.base.names)
    assert min(Counter(process for process, _ in computed).values()) > 3
    assert len(Counter(process for process, _ in computed)) == 2
    expected = merged(merger, recipe_of(models))
    assert all(equal(load_file(worker.out), expected) for worker in workers)


@pytest.mark.parametrize("moment", ["KILL", "KILL_WRITING"])
def test_a_process_killed_while_it_prepares_harms_nobody(
    tmp_path: Path, models: list[Path], notes: Path, moment: str
) -> None:
    states, names = tmp_path / "states", merger_of(models, None).base.names
    victim = start(states, tmp_path / "never", models, **{moment: names[7]})
    victim.go()
    assert victim.wait()[0] == -signal.SIGKILL
    assert len(files_of(states)) == 7
    assert len(list(states.glob("*/.*.partial"))) == (moment == "KILL_WRITING")
    notes.write_text("")
    expected = merged(merger_of(models, None), recipe_of(models))
    notes.write_text("")
    assert equal(merged(merger_of(models, states), recipe_of(models)), expected)
    assert [line.split()[1] for line in notes.read_text().splitlines()] == list(names[7:])
    assert {path.name for path in states.glob("*/*")} == {"lock", *(f"{name}.safetensors" for name in names)}


def test_one_that_waits_for_a_tensor_takes_it_over_when_its_worker_is_killed(
    tmp_path: Path, models: list[Path], notes: Path
) -> None:
    victim = start(tmp_path / "states", tmp_path / "never", models, SECONDS="60")
    victim.go()
    while len(notes.read_text().splitlines()) < 1:
        time.sleep(0.01)
    timer = threading.Timer(1.0, victim.process.kill)
    timer.start()
    merger = merger_of(models, tmp_path / "states")
    found = merged(merger, recipe_of(models))
    timer.join()
    assert victim.wait()[0] == -signal.SIGKILL
    (first, *others) = [line.split()[1] for line in notes.read_text().splitlines()]
    # The tensor that the other had comes last, and all others didn't wait for it.
    assert others == [*merger.base.names[1:], first]
    assert equal(found, merged(merger_of(models, None), recipe_of(models)))


def test_a_worker_that_hangs_holds_nobody_up_for_ever(
    tmp_path: Path, models: list[Path], notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_states, "_PATIENCE_S", 0.3)
    other = start(tmp_path / "states", tmp_path / "never", models, SECONDS="600")
    other.go()
    while not notes.read_text():
        time.sleep(0.01)
    found = merged(merger_of(models, tmp_path / "states"), recipe_of(models))
    assert other.process.poll() is None
    other.process.kill()
    other.wait()
    assert len(files_of(tmp_path / "states")) == len(found)
    assert equal(found, merged(merger_of(models, None), recipe_of(models)))


def test_an_error_while_preparing_is_the_callers_and_leaves_no_lock(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = METHODS.get("noted")
    with monkeypatch.context() as patched:
        patched.setattr(kind, "prepare", lambda self, inputs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepared(merger_of(models, tmp_path / "states"), recipe_of(models))
    other = start(tmp_path / "states", tmp_path / "out", models)
    other.go()
    assert other.wait()[0] == 0
    assert equal(load_file(tmp_path / "out"), merged(merger_of(models, None), recipe_of(models)))
