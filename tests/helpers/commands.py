"""Commands in processes of their own, forked from one that has imported what they need.

Each runs `python -m evomerge`, or a script, from its first line to its last, with its own arguments, folder, variables,
output and exit code. What it would import first takes longer than most of what is tried with it.
"""

from __future__ import annotations

import atexit
import importlib
import io
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from threading import Thread

_CONTEXT = get_context("forkserver")


@cache
def _start_server() -> None:
    """Have it import what this process finds; some releases of Python don't hand the path on."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    _CONTEXT.set_forkserver_preload(["helpers.preloaded"])
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        os.environ.update({} if before is None else {"PYTHONPATH": before})


class Command:
    """A command that runs, with as much of subprocess.Popen as tests use. Its output is read while it runs.

    Args:
        arguments: those of the command line.
        folder: where it runs; here, if None.
        merged: whether what it says on standard error is part of its output.
        script: a file to run in place of the module.
        module: as after `python -m`.
        variables: of the environment, besides those of this process.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        folder: Path | None = None,
        merged: bool = False,
        script: Path | None = None,
        module: str = "evomerge",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        _start_server()
        self._texts = ["", ""]
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(1 if merged else 2)]
        self._process = _CONTEXT.Process(
            target=_run,
            args=(
                script or module,
                [str(one) for one in arguments],
                folder or Path.cwd(),
                {**os.environ, **(variables or {})},
                *(pipe[1] for pipe in pipes),
            ),
        )
        self._process.start()
        self._readers = [
            Thread(target=self._read, args=(index, reader), daemon=True) for index, (reader, _) in enumerate(pipes)
        ]
        for thread, (_, writer) in zip(self._readers, pipes, strict=True):
            writer.close()
            thread.start()

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the signal that ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; standard output and standard error. Raises: TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            self._process.join()
            raise TimeoutExpired("evomerge", timeout or 0, "".join(self._texts))
        for thread in self._readers:
            thread.join(timeout)
        output, error = self._texts
        return output, error

    def _read(self, index: int, reader: Connection) -> None:
        with reader, io.FileIO(reader.fileno(), closefd=False) as file:
            self._texts[index] = file.readall().decode()


def run(
    arguments: Sequence[object],
    folder: Path | None = None,
    *,
    script: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> CompletedProcess[str]:
    """Run a command, or a script, to its end."""
    command = Command(arguments, folder=folder, script=script, variables=variables)
    output, error = command.communicate()
    assert command.returncode is not None
    return CompletedProcess(list(arguments), command.returncode, output, error)


def _run(
    program: Path | str, arguments: list[str], folder: Path, variables: dict[str, str], *outputs: Connection
) -> None:
    os.setsid()
    os.chdir(folder)
    before = _of_the_hub()
    os.environ.clear()
    os.environ.update(variables)
    if _of_the_hub() != before:
        _read_settings_of_the_hub_again()
    for number in (1, 2):
        os.dup2(outputs[min(number, len(outputs)) - 1].fileno(), number)
    for output in outputs:
        output.close()
    sys.argv = [str(program), *arguments]
    try:
        if isinstance(program, str):
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(program.parent))
            runpy.run_path(str(program), run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def _of_the_hub() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("HF_")}


def _read_settings_of_the_hub_again() -> None:
    """The hub's library has read them where it was imported, for a process with others."""
    from huggingface_hub import close_session, constants

    importlib.reload(constants)
    close_session()
