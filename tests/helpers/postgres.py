"""A real PostgreSQL server of a test's own, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.patience import LONG_S

PROGRAMS = ("initdb", "pg_ctl")
SETTINGS = "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=10"


class Server:
    """A server that listens on a socket in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"postgresql://tester:secret@/postgres?host={folder}"

    def start(self) -> None:
        """Start it, or start it again."""
        self._do("pg_ctl", "-w", "-o", f"-k {self.folder} {SETTINGS}", "-l", f"{self.folder}/log", "start")

    def stop(self) -> None:
        """Stop it as a power cut does."""
        self._do("pg_ctl", "-w", "-m", "immediate", "stop")

    def make(self) -> None:
        """Make its files."""
        self._do("initdb", "-A", "trust", "-U", "tester", "--no-sync", "-E", "UTF8", "--locale=C")

    def _do(self, program: str, *arguments: str) -> None:
        found = shutil.which(program)
        assert found is not None
        # It refuses to run as root.
        user: dict[str, Any] = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid} if os.getuid() == 0 else {}
        command = [found, "-D", str(self.folder / "data"), *arguments]
        with (self.folder / "said").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=self.folder, timeout=LONG_S, **user)


@contextmanager
def server() -> Iterator[Server]:
    """A server that is up, and gone afterwards with everything in it."""
    # Others than its user must not be able to look in, and a socket's path holds 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    made = Server(folder)
    try:
        made.make()
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
