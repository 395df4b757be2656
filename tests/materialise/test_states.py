from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.config.config import Config
from evomerge.execute.worker import Worker
from evomerge.kernels import engines
from evomerge.materialise import states as stored_states
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod
from evomerge.recipe.sources import ModelReference
from evomerge.run.directory import PREPARED
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from evomerge.study.export import export
from evomerge.study.search import resume, search
from evomerge.testing.models import tiny_family
from helpers.merging import prepared
from helpers.prepared import METHOD, merged, merger_of, recipe_of
from helpers.search import essence, write_config, write_task
from helpers.worker import REQUESTS, answers, job, make_settings

HERE = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def noted() -> Iterator[None]:
    with METHODS.extended({"noted": METHOD}):
        yield


@pytest.fixture
def models(tiny_llama: dict[str, Path]) -> list[Path]:
    return list(tiny_llama.values())


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One line for each preparation: process and tensor."""
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setenv("NOTES", str(path))
    return path


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def files_of(states: Path) -> list[Path]:
    return sorted(states.glob("*/*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_merges_the_same_bytes_with_kept_states_and_prepares_once(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: type[MergeMethod] = METHODS.get(method)
    count = min(max(2, kind.min_experts), kind.max_experts or 99)
    models = list(tiny_family(tmp_path / "models", dtype="bfloat16", experts="abcdef"[:count], hidden=16).values())
    values = {parameter.name: 0.6 * parameter.low + 0.4 * parameter.high for parameter in kind.parameters}
    recipe = recipe_of(models, method, coefficients=values)
    expected = merged(merger_of(models, None), recipe)
    first = merger_of(models, tmp_path / "states")
    assert equal(merged(first, recipe), expected)
    assert first.preparer.problem is None
    sizes = first.preparer.state_sizes(first.bind(recipe))
    assert len(files_of(tmp_path / "states")) == len(sizes)

    prepare, again = kind.prepare, []
    monkeypatch.setattr(kind, "prepare", lambda self, inputs: again.append(inputs.name) or prepare(self, inputs))
    assert equal(merged(merger_of(models, tmp_path / "states"), recipe), expected)
    with engines.torch_only():
        assert equal(merged(merger_of(models, tmp_path / "states"), recipe), expected)
    assert not set(again) & set(sizes)


def test_kept_states_are_mapped_and_not_copied(tmp_path: Path, models: list[Path]) -> None:
    merger = merger_of(models, tmp_path / "states")
    states = merger.preparer.prepare(merger.bind(recipe_of(models))).states
    mapped = Path("/proc/self/maps").read_text()
    for file in files_of(tmp_path / "states"):
        assert str(file) in mapped
    ranges = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in mapped.splitlines()
        if str(tmp_path) in line
    ]
    for state in states.values():
        assert any(start <= state.change.data_ptr() < stop for start, stop in ranges)


class Started(NamedTuple):
    process: subprocess.Popen[str]
    out: Path

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=120)
        return self.process.returncode, said


def start(
    states: Path, out: Path, models: Sequence[Path], *, limit: Callable[[], None] | None = None, **environment: str
) -> Started:
    """A process that has opened the models and waits for a word to begin."""
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.prepared", str(states), str(out), *map(str, models)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        preexec_fn=limit,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return Started(process, out)


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


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def blank(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def change_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"entries", b"antries"))


def exchange(path: Path) -> None:
    shutil.copyfile(next(other for other in files_of(path.parent.parent) if other != path), path)


def strip(path: Path) -> None:
    save_file(load_file(path), path)


@pytest.mark.parametrize("damage", [halve, shorten, empty, blank, flip, change_header, exchange, strip])
def test_a_damaged_file_is_noticed_and_computed_anew(
    tmp_path: Path, models: list[Path], notes: Path, damage: Callable[[Path], None]
) -> None:
    states, recipe = tmp_path / "states", recipe_of(models)
    expected = merged(merger_of(models, states), recipe)
    victim = files_of(states)[5]
    whole, tensors = victim.read_bytes(), load_file(victim)
    notes.write_text("")
    # A new file, as the old one is mapped by the first.
    victim.unlink()
    victim.write_bytes(whole)
    damage(victim)
    assert equal(merged(merger_of(models, states), recipe), expected)
    assert [line.split()[1] for line in notes.read_text().splitlines()] == [victim.stem]
    assert equal(load_file(victim), tensors)


def in_place_of_the_folder(states: Path) -> None:
    states.write_text("a file")


def folder_above_missing(states: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "place", "reason"),
    [
        (in_place_of_the_folder, "states", "Not a directory|File exists"),
        (folder_above_missing, "of/another/machine", "No such file or directory"),
        (folder_above_missing, "$UNSET/states", r"\$ names a variable that isn't set on"),
    ],
)
def test_where_states_cant_be_kept_the_worker_goes_on_in_memory_and_says_so_once(
    tmp_path: Path,
    models: list[Path],
    spoil: Callable[[Path], None],
    place: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    states = Path(place) if place.startswith("$") else tmp_path / place
    spoil(states)
    before = sorted(path for path in tmp_path.rglob("*"))
    merger = merger_of(models, states)
    with caplog.at_level(logging.WARNING):
        found = merged(merger, recipe_of(models))
        assert equal(merged(merger, recipe_of(models)), found)
    assert equal(found, merged(merger_of(models, None), recipe_of(models)))
    (record,) = caplog.records
    assert merger.preparer.problem == record.getMessage()
    assert re.search(reason, record.getMessage())
    assert record.getMessage().startswith(str(states))
    assert "execution.prepared_directory" in record.getMessage()
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert not Path(place.partition("/")[0]).exists() or not place.startswith("$")


def test_a_disk_that_fills_up_costs_only_memory(tmp_path: Path, models: list[Path]) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    states = tmp_path / "states"
    worker = start(states, tmp_path / "out", models, limit=limit)
    worker.go()
    code, said = worker.wait()
    assert code == 0
    assert said.count("prepared states can't be kept there (") == 1
    assert "File too large" in said
    expected = merged(merger_of(models, None), recipe_of(models))
    assert equal(load_file(worker.out), expected)
    assert not list(states.glob("*/.*.partial"))
    assert len(files_of(states)) < len(expected)
    assert equal(merged(merger_of(models, states), recipe_of(models)), expected)
    assert len(files_of(states)) == len(expected)


def test_room_is_left_for_results(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 27))
    merger = merger_of(models, tmp_path / "states")
    found = merged(merger, recipe_of(models))
    assert "(the disk is nearly full)" in str(merger.preparer.problem)
    assert len(caplog.records) == 1
    assert not files_of(tmp_path / "states")
    assert equal(found, merged(merger_of(models, None), recipe_of(models)))


def test_a_complete_folder_needs_no_writing(tmp_path: Path, models: list[Path], notes: Path) -> None:
    states, recipe = tmp_path / "states", recipe_of(models)
    expected = merged(merger_of(models, states), recipe)
    (lock,) = states.glob("*/lock")
    lock.unlink()
    lock.mkdir()  # can't be opened for writing, whoever asks
    notes.write_text("")
    merger = merger_of(models, states)
    assert equal(merged(merger, recipe), expected)
    assert merger.preparer.problem is None
    assert not notes.read_text()
    files_of(states)[0].unlink()
    merger = merger_of(models, states)
    assert equal(merged(merger, recipe), expected)
    assert "Is a directory" in str(merger.preparer.problem)


def test_where_the_file_system_has_no_locks_states_are_kept_all_the_same(
    tmp_path: Path, models: list[Path], notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    expected = merged(merger_of(models, tmp_path / "states"), recipe_of(models))
    notes.write_text("")
    merger = merger_of(models, tmp_path / "states")
    assert equal(merged(merger, recipe_of(models)), expected)
    assert (merger.preparer.problem, notes.read_text()) == (None, "")


def test_a_state_that_cant_be_written_stays_in_memory(
    tmp_path: Path, models: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of(models, options={"plain": False})
    merger = merger_of(models, tmp_path / "states")
    assert equal(merged(merger, recipe), merged(merger_of(models, None), recipe_of(models)))
    assert merger.preparer.problem is None
    assert not caplog.records
    assert not files_of(tmp_path / "states")


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


def test_states_of_other_options_models_and_orders_are_kept_apart(tmp_path: Path, notes: Path) -> None:
    family = tiny_family(tmp_path / "models")
    models, states = list(family.values()), tmp_path / "states"

    def folders_after(models: list[Path], **settings: Any) -> int:
        recipe = recipe_of(models, **settings)
        assert equal(merged(merger_of(models, states), recipe), merged(merger_of(models, None), recipe))
        return len(list(states.iterdir()))

    assert folders_after(models) == 1
    assert folders_after(models, coefficients={"scale": 0.25}) == 1
    assert folders_after(models, options={"shift": 0.5}) == 2
    assert folders_after(models, seed=3) == 3
    assert folders_after([models[0], *models[:0:-1]]) == 4
    assert folders_after(models[:2]) == 5
    copied = [Path(shutil.copytree(folder, tmp_path / "copies" / folder.name)) for folder in models]
    assert folders_after(copied) == 5
    for index, entry in ((0, 0), (1, -1)):
        tensors = load_file(copied[index] / "model.safetensors")
        tensors["lm_head.weight"].view(-1)[entry] += 1.0
        (copied[index] / "model.safetensors").unlink()
        save_file(tensors, copied[index] / "model.safetensors", {"format": "pt"})
        assert folders_after(copied) == 6 + index


def test_a_method_whose_code_changes_prepares_anew(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "their_method.py"
    module.write_text("from helpers.prepared import Noted\n\nclass Theirs(Noted):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with METHODS.extended({"theirs": "their_method:Theirs"}):
        for number in (1, 1, 2):
            if number == 2:
                module.write_text(module.read_text() + "\n# another release\n")
            prepared(merger_of(models, tmp_path / "states"), recipe_of(models, "theirs"))
            assert len(list((tmp_path / "states").iterdir())) == number
        module.unlink()
        prepared(merger_of(models, tmp_path / "states"), recipe_of(models, "theirs"))
    assert len(list((tmp_path / "states").iterdir())) == 2


def test_a_folder_may_be_named_by_variables_of_the_workers_machine(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_OF_NODE", str(tmp_path))
    settings = make_settings(tiny_llama, states="$SCRATCH_OF_NODE/states")
    worker = Worker(settings)
    worker.add_requests("search", REQUESTS)
    recipe = replace(job(settings, 0, 0.5).recipe, method="ties")
    answers(worker.evaluate(replace(job(settings, 0, 0.5), recipe=recipe)))
    assert files_of(tmp_path / "states")


class Stop(SilentObserver):
    """Interrupts a search after so many evaluations."""

    def __init__(self, after: int) -> None:
        self._left = after

    def trial(self, record: TrialRecord) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["ties", "tsv_merge"])
def test_a_resumed_search_prepares_nothing_and_ends_as_one_that_kept_no_states(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    changes = {"merge": {"method": method}, "search": {"evaluations": 8, "scan": 2}}
    tasks = write_task(tmp_path / "tasks")
    kind, prepared_tensors = METHODS.get(method), []
    prepare = kind.prepare
    monkeypatch.setattr(
        kind, "prepare", lambda self, inputs: prepared_tensors.append(inputs.name) or prepare(self, inputs)
    )
    (tmp_path / "no folder").touch()
    in_memory = {**changes, "execution": {"prepared_directory": str(tmp_path / "no folder")}}
    config = Config.from_file(write_config(tmp_path / "memory.yaml", tiny_llama, tasks, **in_memory))
    search(config, tmp_path / "undisturbed")
    assert prepared_tensors

    config = Config.from_file(write_config(tmp_path / "config.yaml", tiny_llama, tasks, **changes))
    directory = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(config, directory, observer=Stop(7))
    kept = {path.stem for path in files_of(directory / PREPARED)}
    assert kept
    prepared_tensors.clear()
    resume(directory)
    assert not set(prepared_tensors) & kept
    assert essence(directory) == essence(tmp_path / "undisturbed")

    prepared_tensors.clear()
    export(directory, tmp_path / "with states")
    assert not set(prepared_tensors) & kept
    shutil.rmtree(directory / PREPARED)
    export(directory, tmp_path / "without")
    assert {quote(name, safe="") for name in prepared_tensors} >= kept
    assert not (directory / PREPARED).exists()
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("with states", "without")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.ray
def test_ray_workers_share_states_and_their_problem_reaches_the_driver(
    tmp_path: Path, tiny_llama: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    from evomerge.execute.ray.executor import RayExecutor

    def evaluate(states: Path) -> list[Any]:
        settings = make_settings(tiny_llama, states=str(states))
        recipe = replace(job(settings, 0, 0.5).recipe, method="ties")
        executor = RayExecutor(settings, workers=2, cpus_per_worker=0.1)
        try:
            executor.add_requests("search", REQUESTS)
            jobs = [replace(job(settings, number, 0.5), recipe=recipe) for number in range(4)]
            return [answers(outcome).responses for _, outcome in executor.run(jobs)]
        finally:
            executor.close()

    kept = evaluate(tmp_path / "states")
    assert len(files_of(tmp_path / "states")) == len(merger_of(list(tiny_llama.values()), None).base.names)
    assert not caplog.records
    (tmp_path / "a file").touch()
    assert evaluate(tmp_path / "a file") == kept
    told = [record.getMessage() for record in caplog.records if "can't be kept" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("worker ")


def test_an_estimate_of_the_time_goes_by_one_tensor_of_each_shape(
    models: list[Path], notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS", "0.05")
    merger = merger_of(models, None)
    shapes = {info.shape for info in merger.base.tensors.values()}
    count = len(merger.base.names)
    estimate = merger.preparer.estimated_seconds(merger.bind(recipe_of(models)), 60.0)
    assert notes.read_text().count("\n") == len(shapes)
    assert 0.05 * count < estimate < 0.05 * count + 2.0
    notes.write_text("")
    assert merger.preparer.estimated_seconds(merger.bind(recipe_of(models)), 0.01) > 0.0
    assert notes.read_text().count("\n") == 1
    assert merger.preparer.estimated_seconds(merger.bind(recipe_of(models, "task_arithmetic")), 1.0) == 0.0


def test_references_dont_matter_to_states(tmp_path: Path, models: list[Path]) -> None:
    recipe = recipe_of(models)
    merger = merger_of(models, tmp_path / "states")
    merger.preparer.prepare(merger.bind(recipe))
    merger.preparer.prepare(merger.bind(replace(recipe, base=ModelReference(path="elsewhere"))))
    assert len(list((tmp_path / "states").iterdir())) == 1
