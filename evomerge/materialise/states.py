"""Prepared states in files: each computed once, by whichever worker comes to it first, and mapped by all.

A folder holds a sub-folder for each combination of what the states depend on, and in it a file per tensor. Everything
there can be computed again: files that are damaged are, and a folder that can't be written costs memory and time, and
nothing else. Does not know what a state means, nor how it is computed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from evomerge.files.places import local
from evomerge.materialise.encoding import Encoded, decode, encode
from evomerge.materialise.state_key import bytes_of

_log = logging.getLogger(__name__)

_RESERVE_BYTES = 1 << 28
"""Room that is left on the disk, which results need more."""

_POLL_S = 0.2
_PATIENCE_S = 600.0
_ABSENT: Any = object()


def folder_of(directory: str) -> Path:
    """The folder that a config names, with ~ and variables of this machine."""
    return local(os.path.expandvars(directory))


class StoredStates:
    """The states of one merge in a folder, shared by all workers that can see it.

    Args:
        folder: holds the states of any number of merges. It is made if it is missing, but no folder above it.
        key: from `key_of`.
        device_of: where what isn't on the CPU of a tensor's state belongs.

    Attributes:
        problem: why states can't be kept there, a sentence for people; None as far as all is well.
    """

    def __init__(self, folder: Path, key: str, device_of: Callable[[str], torch.device]) -> None:
        self.folder = folder / key
        self._device_of = device_of
        self.problem: str | None = None
        self._locks: int | None = None

    def collect(self, names: Sequence[str], compute: Callable[[str], Any]) -> dict[str, Any]:
        """The states of the tensors, read where they are there, else computed and kept.

        Workers that do this at the same time share the tensors out: a tensor that another is computing is left for
        later. One that was killed meanwhile leaves nothing that stands in the way.

        Args:
            names: of all tensors, the same for every worker.
            compute: the state of one of them, which is kept in memory alone if it can't be encoded.

        Raises: what `compute` raises.
        """
        found: dict[str, Any] = {}
        self._make_folder()
        waiting = list(enumerate(names))
        progress = time.monotonic()
        try:
            while waiting:
                left = []
                for place, name in waiting:
                    state = self._obtain(place, name, compute)
                    if state is _ABSENT:
                        left.append((place, name))
                    else:
                        found[name] = state
                        progress = time.monotonic()
                if left and time.monotonic() - progress > _PATIENCE_S:
                    # Whoever has these hangs. Computing one twice does no harm.
                    _, name = left.pop(0)
                    found[name] = self._computed(name, compute)
                    progress = time.monotonic()
                elif len(left) == len(waiting):
                    time.sleep(_POLL_S)
                waiting = left
        finally:
            if self._locks is not None:
                os.close(self._locks)
                self._locks = None
        return found

    def state(self, name: str, compute: Callable[[str], Any]) -> Any:
        """One tensor's state, read if it is there, else computed and not kept. Raises: what `compute` raises."""
        found = self._read(name)
        return compute(name) if found is _ABSENT else found

    def _obtain(self, place: int, name: str, compute: Callable[[str], Any]) -> Any:
        """One tensor's state, or _ABSENT while another worker is computing it."""
        state = self._read(name)
        if state is not _ABSENT:
            return state
        with self._claim(place, name) as claimed:
            return self._computed(name, compute) if claimed else _ABSENT

    def _computed(self, name: str, compute: Callable[[str], Any]) -> Any:
        # Whoever had the tensor before may have finished since we looked.
        state = self._read(name)
        if state is not _ABSENT:
            return state
        state = compute(name)
        if self.problem is None and self._write(name, state):
            kept = self._read(name)
            return state if kept is _ABSENT else kept
        return state

    def _make_folder(self) -> None:
        if not self.folder.is_absolute():
            self._give_up(f"$ names a variable that isn't set on {os.uname().nodename}")
            return
        try:
            # Not the folders above: where these are missing, the folder belongs to another machine.
            self.folder.parent.mkdir(exist_ok=True)
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            self._give_up(error)

    @contextmanager
    def _claim(self, place: int, name: str) -> Iterator[bool]:
        """Whether a tensor is ours to compute; others see it as taken until the end of the block, or of the process.

        Where there are no locks everything is, so that several workers may compute the same: each writes whole files.
        """
        if not self._can_lock():
            yield True
            return
        assert self._locks is not None
        taken = False
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            for left_over in self.folder.glob(f".{self._path(name).name}.*.partial"):
                left_over.unlink(missing_ok=True)
        except OSError as error:
            taken = error.errno in (errno.EACCES, errno.EAGAIN)
        try:
            yield not taken
        finally:
            if not taken:
                with suppress(OSError):
                    fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, place)

    def _can_lock(self) -> bool:
        """Whether the file is open whose bytes stand for the tensors; who can't write needs none."""
        try:
            if self.problem is None and self._locks is None:
                self._locks = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            self._give_up(error)
        return self.problem is None

    def _path(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='')}.safetensors"

    def _read(self, name: str) -> Any:
        """A tensor's state, its tensors memory-mapped; _ABSENT if it isn't there whole."""
        path = self._path(name)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                encoded = Encoded({key: file.get_tensor(key) for key in file.keys()}, metadata.get("state", ""))  # noqa: SIM118
            if (metadata.get("tensor"), metadata.get("checksum")) == (name, _checksum(encoded)):
                return decode(encoded, self._device_of(name))
        except (FileNotFoundError, NotADirectoryError):
            return _ABSENT
        except (OSError, SafetensorError, ValueError) as error:
            _log.info("%s: can't be read and is computed again: %s", path, error)
            return _ABSENT
        _log.info("%s: is damaged and is computed again", path)
        return _ABSENT

    def _write(self, name: str, state: Any) -> bool:
        """Keep a tensor's state in a file, which appears when it is whole; returns whether it did."""
        try:
            encoded = encode(state)
        except TypeError as error:
            _log.info("%s: its state stays in memory: %s", name, error)
            return False
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        metadata = {"tensor": name, "state": encoded.structure, "checksum": _checksum(encoded)}
        try:
            if shutil.disk_usage(path.parent).free < encoded.size_bytes + _RESERVE_BYTES:
                raise OSError(errno.ENOSPC, "the disk is nearly full")
            save_file(dict(encoded.tensors), temporary, metadata)
            # The disk isn't waited for: what is lost in a power failure has another checksum.
            temporary.replace(path)
            return True
        except (OSError, SafetensorError) as error:
            self._give_up(error)
            return False
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _give_up(self, reason: OSError | SafetensorError | str) -> None:
        """Go on without writing, and say so once."""
        if self.problem is not None:
            return
        words = (reason.strerror if isinstance(reason, OSError) else None) or reason
        self.problem = (
            f"{self.folder.parent}: prepared states can't be kept there ({words}), so that this worker has to prepare "
            "them itself and keeps them in its own memory. execution.prepared_directory names another folder for them"
        )
        _log.warning("%s", self.problem)


def _checksum(encoded: Encoded) -> str:
    value = zlib.crc32(encoded.structure.encode())
    for name in sorted(encoded.tensors):
        value = zlib.crc32(bytes_of(encoded.tensors[name]), value)
    return f"{value:08x}"
