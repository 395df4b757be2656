"""Prepared states in files: found again, noticed when damaged, done without where they can't be kept."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from evomerge.kernels import engines
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod
from evomerge.testing.inputs import number_of_experts
from helpers.prepared import equal, files_of, merged, merger_of, recipe_of, start

pytestmark = pytest.mark.usefixtures("noted")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_merges_the_same_bytes_with_kept_states_and_prepares_once(
    tmp_path: Path, family_of: Callable[..., dict[str, Path]], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: type[MergeMethod] = METHODS.get(method)
    experts = tuple("abcdef"[: number_of_experts(kind)])
    models = list(family_of("llama", experts, dtype="bfloat16", hidden=16).values())
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
    states = tmp_path / "states"
    worker = start(states, tmp_path / "out", models, FILE_SIZE="20000")
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
