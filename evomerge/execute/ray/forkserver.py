"""Workers that start in the time of a fork: a process on each machine imports everything once, and is forked.

Ray starts `python default_worker.py ...` for each worker, which then imports PyTorch and transformers for many seconds.
Here it is told to start this module instead (`command`). That has the fork server of its machine, which it starts where
there is none, fork a child that goes on as the worker, and stands in for the child until that ends. Where anything is
in the way, it becomes the worker itself, as Ray would have started it.

A server serves workers of one environment, of whatever jobs. It starts no thread and no CUDA, and ends with the last
raylet that it has served, or when it has had no worker for a minute.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import hashlib
import importlib
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from evomerge.execute.ray.patience import WORKER, half_of

_MODULE = "evomerge.execute.ray.forkserver"
_START = f"""\
import os, sys
try:
    from {_MODULE} import main
except ImportError:  # the worker is told later where its code is
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
sys.exit(main(sys.argv[1:]))
"""
_IMPORTED = (
    "transformers.masking_utils",
    "transformers.modeling_layers",
    "transformers.modeling_utils",
    "evomerge.execute.worker",
    "evomerge.kernels.loops.linear",
)
"""What every worker imports, of whatever models, but for Ray, which reads what job it is for as it is loaded."""
_RAYLET = "RAY_RAYLET_PID"
_IDLE_S = 60.0
_RECEIVE_S = 30.0
"""How long whoever asks for a worker may take to say for which."""
_FIRST = sys.path[0]
"""What Python puts before other folders for this program, before imports put theirs before it."""
_LENGTH = struct.Struct("!I")


def command() -> str | None:
    """What Ray is to start instead of Python (`py_executable` of a runtime environment); None where it can't fork so.

    Other machines have this Python under the same path, or else one that they find as `python3`.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open") or not sys.executable:
        return None
    python = shlex.quote(sys.executable)
    return f'"$([ -x {python} ] && echo {python} || echo python3)" -c {shlex.quote(_START)}'


def main(arguments: Sequence[str]) -> int:
    """Stand in for a worker that is started with these arguments; with `--serve`, be the server of a socket."""
    if arguments[0] == "--serve":
        _Server(socket.socket(fileno=int(arguments[1])), Path(arguments[2])).serve()
        return 0
    try:
        server = _ask_for_worker(arguments)
    except Exception:
        _start_anew(arguments, os.environ)
    status = _receive(server)["status"]
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def _ask_for_worker(arguments: Sequence[str]) -> socket.socket:
    """A connection to the server that has forked a worker. Raises: any error where none was forked."""
    worker = {
        "raylet": int(os.environ[_RAYLET]),
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "out_of_memory_score": Path("/proc/self/oom_score_adj").read_text(),
    }
    environment = sorted(item for item in os.environ.items() if not item[0].startswith("RAY_"))
    alike = json.dumps([sys.executable, os.getcwd(), os.getpriority(os.PRIO_PROCESS, 0), environment])
    server = _connect(_own_folder() / hashlib.sha256(alike.encode()).hexdigest()[:16])
    server.settimeout(half_of(WORKER))  # it may be importing
    _receive(server)  # it is ready; from here on, the worker is the server's
    server.settimeout(None)
    _send(server, worker, [0, 1, 2])
    _receive(server)
    return server


def _own_folder() -> Path:
    """Where this user's servers are reached, and nobody else's."""
    folder = Path(tempfile.gettempdir()) / f"evomerge-forkservers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} isn't this user's own")
    return folder


def _connect(address: Path) -> socket.socket:
    """The server at an address, which is started if there is none."""
    with _opened(address.parent) as folder, open(address.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = socket.socket(socket.AF_UNIX)
        short = f"/proc/self/fd/{folder}/{address.name}"  # a socket's path has 107 bytes, a job's folder may have more
        try:
            server.connect(short)
        except (FileNotFoundError, ConnectionRefusedError):
            address.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(short)
                listener.listen(128)
                subprocess.Popen(
                    [sys.executable, "-m", _MODULE, "--serve", str(listener.fileno()), str(address)],
                    pass_fds=[listener.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            server.connect(short)
        return server


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Child:
    """A worker, and the stand-in that waits for it."""

    pid: int
    ended: int
    """A pidfd, readable once it has."""
    stand_in: socket.socket


class _Server:
    """Forks this process for everyone who asks."""

    def __init__(self, listener: socket.socket, address: Path) -> None:
        self._listener = listener
        self._address = address
        self._raylets: dict[int, int] = {}
        """Their process ids, and pidfds."""
        self._children: set[_Child] = set()
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Returns when nobody is left to serve. Workers themselves see to it that they end with their raylet."""
        _import()
        self._selector.register(self._listener, selectors.EVENT_READ, self._fork)
        while events := self._selector.select(None if self._children else _IDLE_S):
            had_raylets = bool(self._raylets)
            for key, _ in events:
                key.data()
            if had_raylets and not self._raylets:
                break
        self._address.unlink(missing_ok=True)

    def _fork(self) -> None:
        stand_in, _ = self._listener.accept()
        stand_in.settimeout(_RECEIVE_S)
        try:
            _send(stand_in, {"ready": True})
            worker, streams = _receive_with_streams(stand_in)
            self._watch(worker["raylet"])
            pid = os.fork()
        except (OSError, ValueError):  # it has gone without, or there is no room for another process
            stand_in.close()
            return
        if pid == 0:
            self._leave()
            stand_in.close()
            _become(worker, streams)
        for stream in streams:
            os.close(stream)
        child = _Child(pid, os.pidfd_open(pid), stand_in)
        self._children.add(child)
        self._selector.register(child.ended, selectors.EVENT_READ, lambda: self._bury(child))
        # It says nothing; at its end, the worker ends as well.
        self._selector.register(stand_in, selectors.EVENT_READ, lambda: self._kill(child))
        with suppress(OSError):
            _send(stand_in, {"pid": pid})

    def _watch(self, raylet: int) -> None:
        """Note when a raylet ends."""
        if raylet not in self._raylets:
            ended = self._raylets[raylet] = os.pidfd_open(raylet)

            def forget() -> None:
                self._selector.unregister(ended)
                os.close(self._raylets.pop(raylet))

            self._selector.register(ended, selectors.EVENT_READ, forget)

    def _bury(self, child: _Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        self._children.remove(child)
        self._selector.unregister(child.ended)
        if child.stand_in.fileno() in self._selector.get_map():
            self._selector.unregister(child.stand_in)
        with suppress(OSError):
            _send(child.stand_in, {"status": status})
        os.close(child.ended)
        child.stand_in.close()

    def _kill(self, child: _Child) -> None:
        if child in self._children:
            self._selector.unregister(child.stand_in)
            signal.pidfd_send_signal(child.ended, signal.SIGKILL)

    def _leave(self) -> None:
        """Let go, in a child, of all that is the server's."""
        self._selector.close()
        self._listener.close()
        for child in self._children:
            child.stand_in.close()
        for ended in (*self._raylets.values(), *(child.ended for child in self._children)):
            os.close(ended)


def _import() -> None:
    """Import what workers need. What can't be imported is left to them, who can say so."""
    # To ask the driver for GPUs would spoil it for children.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    for name in _IMPORTED:
        with suppress(Exception):
            importlib.import_module(name)
    # Looking through them would copy every page of these objects into each child.
    gc.collect()
    gc.freeze()
    # Libraries that look for what was left behind at the end would find it.
    atexit.register(gc.unfreeze)


def _become(worker: Mapping[str, Any], streams: Sequence[int]) -> NoReturn:
    """Go on as a worker, as if just started for it."""
    os.setpgid(0, 0)
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
        os.close(stream)
    os.chdir(worker["folder"])
    with suppress(OSError):  # to lower it isn't everyone's right
        Path("/proc/self/oom_score_adj").write_text(worker["out_of_memory_score"])
    arguments = worker["arguments"]
    if not _is_sound():
        _start_anew(arguments, worker["environment"])
    os.environ.clear()
    os.environ.update(worker["environment"])
    importlib.import_module("numpy").random.seed()
    sys.argv[:] = arguments
    sys.path[sys.path.index(_FIRST)] = str(Path(arguments[0]).parent)
    runpy.run_path(arguments[0], run_name="__main__")
    sys.exit()


def _is_sound() -> bool:
    """Whether this child of the server can do what a new process could: CUDA that was asked before a fork can't."""
    try:
        return not sys.modules["torch"].cuda._is_in_bad_fork()
    except (KeyError, AttributeError):
        return False


def _start_anew(arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    os.execve(sys.executable, [sys.executable, *arguments], environment)


def _send(to: socket.socket, message: Any, streams: Sequence[int] = ()) -> None:
    data = json.dumps(message).encode()
    socket.send_fds(to, [_LENGTH.pack(len(data))], streams)
    to.sendall(data)


def _receive(sender: socket.socket) -> Any:
    return _receive_with_streams(sender)[0]


def _receive_with_streams(sender: socket.socket) -> tuple[Any, list[int]]:
    """A message, and the streams sent with it. Raises: OSError or ValueError if the sender ends before its end."""
    head, streams, _, _ = socket.recv_fds(sender, _LENGTH.size, 3)
    with sender.makefile("rb") as rest:
        data = rest.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    return json.loads(data), streams


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
