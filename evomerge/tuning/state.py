"""The folder of a tuning that goes on: what it was asked, its checkpoints, and who is at work.

It lies beside the output, as OUT.tuning, and is deleted when the output is there. A checkpoint counts once it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evomerge.errors import LockedError, ResumeError, TuningError, listed, shown
from evomerge.files.atomic import read_json, write_json
from evomerge.files.fingerprint import changed, fingerprints
from evomerge.files.locks import take
from evomerge.files.obstacles import obstacle
from evomerge.models.hub import content_files

_RECORD, _WHOLE, _LOCK, _START = "tuning.json", "whole", "lock", "start.json"


class State:
    """The folder of one tuning. Made by `at_work`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def checkpoint(self) -> Path | None:
        """The last checkpoint that was written to its end."""
        whole = [path for path in self._checkpoints() if (path / _WHOLE).is_file()]
        return max(whole, key=_step, default=None)

    @property
    def start(self) -> dict[str, float] | None:
        """What was measured before the first step, once it was."""
        return read_json(self.folder / _START, missing_ok=True) or None

    @start.setter
    def start(self, measured: Mapping[str, float]) -> None:
        write_json(self.folder / _START, dict(measured))

    def finish_checkpoint(self, step: int) -> None:
        """Let the checkpoint of a step count, and delete all that came before it."""
        (self.folder / f"checkpoint-{step}" / _WHOLE).touch()
        for path in self._checkpoints():
            if _step(path) < step:
                (path / _WHOLE).unlink(missing_ok=True)
                shutil.rmtree(path)

    def drop_torn(self) -> None:
        """Delete the checkpoints that were being written or deleted when a process ended."""
        for path in self._checkpoints():
            if not (path / _WHOLE).is_file():
                shutil.rmtree(path)

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]


@contextmanager
def at_work(out: Path, asked: Mapping[str, Any], files: Mapping[str, Path]) -> Iterator[State]:
    """Begin a tuning, or go on with the one that was begun; its folder is deleted after a good end.

    Args:
        out: the folder that is to be made.
        asked: everything that decides what comes out, as plain data.
        files: the model's and the data's files, by name; their content decides, too.

    Raises: ResumeError if the folder is of another tuning; LockedError if another process is at work; TuningError
    if it can't be written.
    """
    folder = working_folder(out)
    with locked(folder):
        state = State(folder)
        begin(folder, asked, files)
        state.drop_torn()
        yield state
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only one at work in a folder, which is made. Raises: LockedError, TuningError if it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / _LOCK).open("w")
    except OSError as error:
        raise TuningError(f"{folder}: can't be written: {obstacle(error, folder)}") from error
    with handle:
        try:
            free = take(handle)
        except OSError as error:
            raise TuningError(
                f"{folder}: the file system has no locks ({error.strerror}), so two processes could tune there at the "
                "same time; choose a folder on another disk, or mount this one with locks"
            ) from error
        if not free:
            raise LockedError(f"{folder}: another process is tuning there; wait for it, or stop it first")
        yield


def working_folder(out: Path) -> Path:
    """Where the checkpoints of a tuning are until its output is there."""
    return out.with_name(f"{out.name}.tuning")


def model_files(folder: Path) -> dict[str, Path]:
    """The files that decide what a model is, by name."""
    return {f"model/{name}": path for name, path in content_files(folder).items()}


def begin(folder: Path, asked: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Write down in a folder what is asked, or compare it with what was.

    Raises: ResumeError if something else was asked there, or a file's content has changed; TuningError for a file that
    can't be read.
    """
    record = folder / _RECORD
    try:
        if not record.exists():
            kept = {name: found.to_data() for name, found in fingerprints(files).items()}
            write_json(record, {"asked": dict(asked), "files": kept})
            return
        known = read_json(record)
        different = _differences(known["asked"], dict(asked))
        if different:
            raise ResumeError(
                f"{folder}: holds a tuning that was asked for otherwise: {listed(different)}; restore that, or delete "
                "the folder to begin anew"
            )
        if names := changed(files, known["files"]):
            raise ResumeError(
                f"{folder}: the content of {listed(names)} has changed since this tuning began; restore it, or delete "
                "the folder to begin anew"
            )
    except OSError as error:
        raise TuningError(f"{error.filename}: can't be read: {error.strerror}") from error


def _differences(then: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        names = dict.fromkeys((*then, *now))
        return [
            found
            for name in names
            for found in _differences(then.get(name), now.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if then == now else [f"{key} ({shown(then)} then, {shown(now)} now)"]


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2])
