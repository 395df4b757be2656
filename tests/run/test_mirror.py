"""The copy of a run directory on object storage: what is in it, who may write it, and what failing uploads do."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.errors import LockedError, ResumeError, RunError
from evomerge.run import mirror as module
from evomerge.run.mirror import Mirror, mirrored


@pytest.fixture
def url() -> Iterator[str]:
    name = f"memory://{uuid.uuid4().hex}/a run"
    yield name
    fsspec.filesystem("memory").rm(name.removeprefix("memory:/"), recursive=True)


def run_in(folder: Path, *, study: str = "a", lines: int = 3) -> Path:
    """The files of a run, as far as a mirror looks at them; every line of the journal rests on an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"format": 2, "study": study}))
    append(folder, lines)
    return folder


def append(folder: Path, lines: int, text: str = "line") -> None:
    for name in ("evaluations.jsonl", "study.journal"):
        with (folder / name).open("a") as file:
            file.writelines(f"{text} {number}\n" for number in range(lines))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def copied(folder: Path, url: str) -> Mirror:
    made = Mirror(folder, url, lambda text: None, every_s=0.05)
    made.claim()
    made.restore()
    return made


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.integers(0, 5), min_size=1, max_size=5), piece=st.integers(1, 40))
def test_whatever_was_uploaded_piece_by_piece_comes_back_as_it_was(
    steps: list[int], piece: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = f"memory://{uuid.uuid4().hex}"
    folder = run_in(tmp_path_factory.mktemp("run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_BYTES", piece)
        made = copied(folder, place)
        for step in steps:
            append(folder, step)
            made.sync()
        made.close()
        other = tmp_path_factory.mktemp("other")
        copied(other, place)
        assert content(other) == content(folder)
        append(other, 2, "more")
        copied(other, place).sync()
        # The first machine has fallen behind, and takes over what the other knows.
        copied(folder, place)
        assert content(folder) == content(other)


def test_a_run_that_went_on_twice_or_is_another_is_refused(tmp_path: Path, url: str) -> None:
    first = run_in(tmp_path / "first")
    with mirrored(first, url, print):
        pass
    second = tmp_path / "second"
    second.mkdir()
    with mirrored(second, url, print):
        append(second, 1, "there")
    append(first, 1, "here")
    with pytest.raises(ResumeError, match="went on separately"), mirrored(first, url, print):
        pass
    with (
        pytest.raises(ResumeError, match=r"holds another run \(a\)"),
        mirrored(run_in(tmp_path / "b", study="b"), url, print),
    ):
        pass


def test_a_torn_last_line_is_no_difference(tmp_path: Path, url: str) -> None:
    first = run_in(tmp_path / "first")
    with (first / "study.journal").open("a") as file:
        file.write('{"half')
    with mirrored(first, url, print):
        pass
    other = tmp_path / "other"
    other.mkdir()
    with mirrored(other, url, print):
        (other / "study.journal").write_bytes((other / "study.journal").read_bytes().removesuffix(b'{"half'))
        append(other, 1)
    with mirrored(first, url, print):
        assert content(first) == content(other)


def test_one_that_still_writes_is_left_alone_and_one_that_is_dead_is_followed(tmp_path: Path, url: str) -> None:
    said: list[str] = []
    first, second = run_in(tmp_path / "first"), tmp_path / "second"
    second.mkdir()
    with mirrored(first, url, said.append, every_s=0.05):
        with pytest.raises(LockedError, match="is driving this run"), mirrored(second, url, said.append, every_s=0.5):
            pass
        assert not list(second.iterdir())
    dead = Mirror(first, url, said.append, every_s=0.05)
    dead.claim()
    dead.sync()
    with mirrored(second, url, said.append, every_s=0.05):
        assert content(second) == content(first)
        with pytest.raises(LockedError, match="has taken over this run"):
            dead.sync()
    assert any("waiting whether it still is" in text for text in said)


def test_a_search_whose_run_another_has_taken_over_ends(tmp_path: Path, url: str) -> None:
    first = run_in(tmp_path / "first")

    def search() -> None:
        with mirrored(first, url, print, every_s=0.05):
            Mirror(tmp_path / "second", url, print)._write_owner()
            threading.Event().wait(120)

    before = time.monotonic()
    with pytest.raises(LockedError, match="has taken over this run"):
        search()
    assert time.monotonic() - before < 60


def test_a_lost_upload_is_said_once_and_tried_again(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    back, write = threading.Event(), MemoryFileSystem.pipe_file
    folder = run_in(tmp_path / "run")

    def unreachable(self: MemoryFileSystem, path: str, value: bytes, **settings: object) -> None:
        if "evaluations" in path and not back.is_set():
            raise OSError("the network is unreachable")
        write(self, path, value, **settings)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", unreachable)
    with mirrored(folder, url, said.append, every_s=0.05):
        wait_for(lambda: bool(said))
        threading.Event().wait(0.3)
        assert len(said) == 1
        assert "can't be written (the network is unreachable); the search goes on, and it is tried again" in said[0]
        # No trial is known there whose evaluation isn't.
        assert not [name for name in Mirror(folder, url, print).place.names() if "journal" in name]
        back.set()
        wait_for(lambda: len(said) > 1)
    assert said[1:] == [f"{url}: is up to date again"]
    other = tmp_path / "other"
    other.mkdir()
    copied(other, url)
    assert content(other) == content(folder)


def test_a_mirror_that_cannot_be_reached_when_a_search_begins_stops_it(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: MemoryFileSystem, path: str, *others: object, **settings: object) -> bytes:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", unreachable)
    with (
        pytest.raises(RunError, match="it isn't known whether the run went on elsewhere"),
        mirrored(tmp_path, url, print),
    ):
        pass
    fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/") + "/x", b"")


def test_copies_on_a_disk_are_never_half_there(tmp_path: Path) -> None:
    place = f"file://{tmp_path}/copies/one"
    folder = run_in(tmp_path / "run")
    with mirrored(folder, place, print):
        pass
    names = {path.name for path in (tmp_path / "copies" / "one").iterdir()}
    assert names == {"run.json", "evaluations.jsonl.pieces", "study.journal.pieces"}


def wait_for(condition: object) -> None:
    assert callable(condition)
    for _ in range(400):
        if condition():
            return
        threading.Event().wait(0.05)
    pytest.fail("not in time")
