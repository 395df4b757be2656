"""A copy of a run directory on object storage, uploaded as the run grows, which a search continues from elsewhere.

What is appended to is uploaded in pieces, of which only the last changes; other files whole. Trials are looked at
before the rest and uploaded after it, so that the copy never knows of a trial's end without its evaluation. An upload
that fails is tried again with the next; the search doesn't wait for any.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evomerge.errors import LockedError, ResumeError, RunError, first_line
from evomerge.files.atomic import read_json, write_atomically
from evomerge.files.objects import Place
from evomerge.run.journal import JOURNAL
from evomerge.run.lock import this_process
from evomerge.run.workers import WORKERS

EVERY_S = 30.0
"""Seconds between two uploads."""
PIECE_BYTES = 8 * 2**20
OWNER = "owner.json"
RUN = "run.json"

_LEFT_OUT = frozenset({"lock", OWNER, WORKERS})
_GROWING = (".jsonl", ".journal")

logger = logging.getLogger(__name__)


class Mirror:
    """The copy of one run directory, written by the search that drives it.

    Args:
        directory: the run's, whose lock is held.
        url: of a folder that fsspec can write, such as s3://bucket/runs/one.
        told: is given sentences on what fails and that it goes on.
        every_s: seconds between two uploads; one that drives elsewhere is given up after three times as long.
    """

    def __init__(self, directory: Path, url: str, told: Callable[[str], None], *, every_s: float = EVERY_S) -> None:
        self.directory = directory
        self.place = Place(url)
        self.taken_over: str | None = None
        self._told = told
        self._every_s = every_s
        self._token = uuid.uuid4().hex
        self._beat = 0
        self._sent: dict[str, int] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._fails = False

    def claim(self) -> None:
        """Become the one that writes the copy; wait until another that doesn't answer any more is given up.

        Raises: LockedError if another writes it; RunError if it can't be reached.
        """
        with self._reaching():
            owner = self._owner()
            # Whoever drove this very directory before is gone: its lock is held here.
            if owner is not None and owner.get("directory") != self._here():
                self._told(f"{self.place}: was last written by {owner.get('process')}; waiting whether it still is")
                until = time.monotonic() + 3 * self._every_s
                while time.monotonic() < until and owner is not None:
                    time.sleep(min(1.0, self._every_s / 4))
                    found = self._owner()
                    if found is not None and found != owner:
                        raise LockedError(
                            f"{self.place}: {found.get('process')} is driving this run. Wait for it, or stop it first"
                        )
                    owner = found
            self._write_owner()

    def restore(self) -> None:
        """Bring the run directory to what the copy knows, if that is more.

        Raises: ResumeError if both went on separately, or are of different runs; RunError if it can't be read.
        """
        with self._reaching():
            names = self._names()
            if RUN not in names:
                return
            there = {name: self._read(name) for name in names if name != OWNER}
        if not (self.directory / RUN).exists():
            self._write(there)
            self._told(f"{self.directory}: continues from {self.place}")
            return
        mine, theirs = read_json(self.directory / RUN).get("study"), json.loads(there[RUN]).get("study")
        if mine != theirs:
            raise ResumeError(
                f"{self.place}: holds another run ({theirs}) than {self.directory} ({mine}); give another "
                "execution.mirror, or another run directory"
            )
        here = {name: (self.directory / name).read_bytes() for name in self._local() if name in there}
        ahead = [name for name in there if _grows(name) and _whole(there[name]) != _whole(here.get(name, b""))]
        longer = [name for name in ahead if _whole(there[name]).startswith(_whole(here.get(name, b"")))]
        shorter = [name for name in ahead if _whole(here.get(name, b"")).startswith(_whole(there[name]))]
        if longer and longer == ahead:
            self._write(there)
            self._told(f"{self.directory}: continues from {self.place}, which knows more of this run")
        elif shorter != ahead:
            raise ResumeError(
                f"{self.directory} and its mirror {self.place} went on separately. To continue from the mirror, move "
                "the directory away; to continue from the directory, give another execution.mirror"
            )
        else:
            # A torn line of the copy may reach into a further piece, so then all is uploaded again.
            self._sent = {name: len(data) for name, data in there.items() if _grows(name) and data == _whole(data)}

    def sync(self) -> None:
        """Upload what is new. Raises: whatever the storage does; LockedError if another has taken over."""
        owner = self._owner()
        if owner is None or owner.get("token") != self._token:
            self.taken_over = "another search" if owner is None else str(owner.get("process"))
            raise LockedError(f"{self.place}: {self.taken_over} has taken over this run")
        files = self._local()
        changed = {name: state for name, state in files.items() if self._seen.get(name) != state}
        read = {name: self._bytes(name) for name in changed if not _grows(name)}
        whole = {name: data for name, data in read.items() if data is not None}
        # Trials first: what is read of the others later has all that they rest on.
        growing = sorted((name for name in changed if _grows(name)), key=lambda name: name != JOURNAL)
        lengths = {name: (self.directory / name).stat().st_size for name in growing}
        for name in reversed(growing):
            self._send(name, lengths[name])
        # run.json says that all else is there.
        for name in sorted(whole, key=lambda name: name == RUN):
            self.place.write(name, whole[name])
        self._seen |= changed
        self._write_owner()

    def keep(self, stop: threading.Event, driver: threading.Thread) -> None:
        """Upload again and again until told to stop, or until another search has taken over, which ends this one.

        Args:
            stop: is set to stop.
            driver: the thread of the search.
        """
        while not stop.wait(self._every_s):
            self._round()
            if self.taken_over is not None:
                if driver is threading.main_thread() and driver.ident is not None:
                    # Ends the search, as Ctrl-C does, whatever it waits for.
                    signal.pthread_kill(driver.ident, signal.SIGINT)
                return

    def close(self) -> None:
        """Upload the rest and let others drive the run."""
        if self.taken_over is not None:
            return
        if self._round():
            self.release()
        elif self.taken_over is None:
            self._told(
                f"{self.place}: lacks the last of this run, which is complete in {self.directory}; the same command "
                "again uploads it"
            )

    def release(self) -> None:
        """Let others drive the run without waiting, if that can be said."""
        with suppress(Exception):
            self.place.delete(OWNER)

    def _round(self) -> bool:
        try:
            self.sync()
        except LockedError as error:
            self._told(str(error))
            return False
        except Exception as error:
            logger.debug("the mirror can't be written", exc_info=True)
            if not self._fails:
                self._told(
                    f"{self.place}: can't be written ({first_line(error)}); the search goes on, and it is tried again"
                )
            self._fails = True
            return False
        if self._fails:
            self._told(f"{self.place}: is up to date again")
        self._fails = False
        return True

    def _send(self, name: str, length: int) -> None:
        """Upload the pieces of a file that have changed, up to a length."""
        sent = self._sent.get(name)
        first = 0 if sent is None or length < sent else sent // PIECE_BYTES
        with (self.directory / name).open("rb") as file:
            for number in range(first, -(-length // PIECE_BYTES)):
                file.seek(number * PIECE_BYTES)
                data = file.read(min(PIECE_BYTES, length - number * PIECE_BYTES))
                self.place.write(_piece(name, number), data)
        if sent is None or length < sent:
            for number in range(-(-length // PIECE_BYTES), self._pieces(name)):
                self.place.delete(_piece(name, number))
        self._sent[name] = length

    def _names(self) -> list[str]:
        """Files in the copy, by their names in the run directory."""
        return list(dict.fromkeys(name.partition(".pieces/")[0] for name in self.place.names()))

    def _pieces(self, name: str) -> int:
        return sum(one.startswith(f"{name}.pieces/") for one in self.place.names())

    def _read(self, name: str) -> bytes:
        if not _grows(name):
            return self.place.read(name) or b""
        return b"".join(self.place.read(_piece(name, number)) or b"" for number in range(self._pieces(name)))

    def _write(self, files: dict[str, bytes]) -> None:
        """Take over files of the copy; run.json last, so that a crash in between is begun again."""
        for name in sorted(files, key=lambda name: name == RUN):
            write_atomically(self.directory / name, files[name])
        self._sent = {name: len(data) for name, data in files.items() if _grows(name)}
        self._seen = {name: state for name, state in self._local().items() if name in files}

    def _bytes(self, name: str) -> bytes | None:
        """A file's content; None if it has gone since it was looked for."""
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def _local(self) -> dict[str, tuple[int, int]]:
        """The run's files with what tells that they have changed."""
        found = {}
        for entry in os.scandir(self.directory):
            if entry.is_file() and not entry.name.startswith(".") and entry.name not in _LEFT_OUT:
                state = entry.stat()
                found[entry.name] = (state.st_size, state.st_mtime_ns)
        return found

    def _owner(self) -> dict[str, Any] | None:
        data = self.place.read(OWNER)
        return None if data is None else dict(json.loads(data))

    def _write_owner(self) -> None:
        self._beat += 1
        owner = {"token": self._token, "process": this_process(), "directory": self._here(), "beat": self._beat}
        self.place.write(OWNER, json.dumps(owner).encode())

    def _here(self) -> str:
        return f"{socket.gethostname()}:{self.directory.resolve()}"

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except LockedError:
            raise
        except Exception as error:
            raise RunError(
                f"{self.place}: can't be reached ({first_line(error)}), so it isn't known whether the run went on "
                "elsewhere. Try again, or leave out execution.mirror"
            ) from error


@contextmanager
def mirrored(
    directory: Path, url: str | None, told: Callable[[str], None], *, every_s: float = EVERY_S
) -> Iterator[None]:
    """Continue from a run directory's mirror, and keep it up to date while the search goes on.

    Raises: as `Mirror.claim` and `Mirror.restore`; LockedError if another search has taken over meanwhile.
    """
    if url is None:
        yield
        return
    mirror, stop = Mirror(directory, url, told, every_s=every_s), threading.Event()
    mirror.claim()
    try:
        mirror.restore()
    except BaseException:
        mirror.release()
        raise
    thread = threading.Thread(target=mirror.keep, args=(stop, threading.current_thread()), name="mirror", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if mirror.taken_over is not None:
            raise LockedError(f"{mirror.place}: {mirror.taken_over} has taken over this run") from None
        raise
    finally:
        stop.set()
        thread.join()
        mirror.close()


def _grows(name: str) -> bool:
    return name.endswith(_GROWING)


def _piece(name: str, number: int) -> str:
    return f"{name}.pieces/{number:06d}"


def _whole(data: bytes) -> bytes:
    """Without a torn last line, which a killed driver left."""
    return data[: data.rfind(b"\n") + 1]
