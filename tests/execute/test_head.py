"""A head that is lost: the search ends by itself, says how to go on, and loses nothing. Real ones are killed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import evomerge.execute.ray.head
from evomerge.config.config import Config
from evomerge.errors import LostClusterError
from evomerge.execute.ray.head import AGAIN_S, Head
from evomerge.execute.ray.patience import HEAD, MINUTES, half_of
from evomerge.execute.ray.private import free_ports
from evomerge.study.search import search
from evomerge.testing.runs import essence
from helpers.commands import Command, run
from helpers.frozen import freeze
from helpers.patience import LONG_S, RAY, UNHURRIED, until
from helpers.search import write_config, write_task

OWN = {
    **MINUTES,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0" * 64,
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables of a head and of those who join it."""
GONE = "it hangs, or its process, machine or network is gone"
BEHEADED = Path(__file__).with_name("beheaded_cluster.py")
LOST = (
    rf"Ray's head at \S+ hasn't answered for 20 s: {GONE}; Ray was initialised before evomerge used it, so do that "
    r"again before you go on\. Nothing recorded is lost; continue with "
)


@pytest.fixture
def port() -> int:
    return next(free_ports())


def serve(port: int, times: int) -> threading.Thread:
    """A server that so many knock at, and nobody afterwards."""
    server = socket.create_server(("127.0.0.1", port))

    def answer() -> None:
        with server:
            for _ in range(times):
                client, _ = server.accept()
                with client:
                    assert client.recv(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                    client.sendall(b"settings")

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_a_head_that_comes_back_is_waited_for(port: int) -> None:
    head = Head(f"127.0.0.1:{port}", patience_s=60)
    assert not head.answers()
    later = threading.Timer(1.0, lambda: serve(port, times=2).join())
    later.start()
    head.wait()
    assert head.answers()
    later.join()


def test_a_head_that_takes_connections_and_reads_none_hangs(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evomerge.execute.ray.head, "_KNOCK_TIMEOUT_S", 0.2)
    head = Head(f"127.0.0.1:{port}", patience_s=0.5)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(LostClusterError, match=r"hasn't answered for 0\.5 s: it hangs, or"),
    ):
        head.wait()


def test_a_head_may_be_gone_for_half_of_what_ray_gives_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HEAD, raising=False)
    assert half_of(HEAD) == 30
    monkeypatch.setenv(HEAD, "20")
    assert half_of(HEAD) == 10


def test_a_head_that_hangs_up_is_alive(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:
        hanging_up = threading.Thread(target=lambda: server.accept()[0].close())
        hanging_up.start()
        assert Head(f"127.0.0.1:{port}", patience_s=1).answers()
        hanging_up.join()


def test_a_head_that_stays_away_is_an_error_that_names_it(port: int) -> None:
    head = Head(f"127.0.0.1:{port}", patience_s=1)
    begin = time.monotonic()
    head.look()  # was seen just now
    with pytest.raises(LostClusterError, match=rf"Ray's head at 127\.0\.0\.1:{port} hasn't answered for 1 s"):
        head.wait()
    assert time.monotonic() - begin >= 1


def test_what_a_head_is_asked_is_waited_for_while_it_is_there(port: int) -> None:
    def slow() -> str:
        time.sleep(2 * AGAIN_S)
        return "an answer"

    def wrong() -> str:
        raise TimeoutError("of its own")

    server = serve(port, times=2)
    head = Head(f"127.0.0.1:{port}", patience_s=0)
    assert head.ask(slow) == "an answer"
    with pytest.raises(TimeoutError, match="of its own"):
        head.ask(wrong)
    assert not head.owes_answer
    server.join()


def test_what_a_head_is_asked_is_waited_for_no_longer_than_the_head(port: int) -> None:
    server = serve(port, times=1)
    head, answer = Head(f"127.0.0.1:{port}", patience_s=0.5), threading.Event()
    with pytest.raises(LostClusterError, match=r"hasn't answered for 0\.5 s"):
        head.ask(answer.wait)
    assert head.owes_answer
    answer.set()
    server.join()


def test_a_head_that_is_gone_is_not_asked(port: int) -> None:
    with pytest.raises(LostClusterError):
        Head(f"127.0.0.1:{port}", patience_s=0).ask(lambda: pytest.fail("it was asked"))


class RayHead:
    """One that `ray start` starts, with a folder of its own."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        # A socket's path holds 107 characters, and pytest's folders leave too few for Ray's.
        self._folder = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)

    def start(self) -> None:
        """Start it."""
        host, _, port = self.address.rpartition(":")
        command = [
            *(*RAY, "start", "--head", "--num-cpus=3"),
            *(
                f"--port={port}",
                f"--node-ip-address={host}",
                "--include-dashboard=false",
                f"--ray-client-server-port={next(free_ports())}",
            ),
            f"--temp-dir={self._folder.name}",
        ]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | OWN
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr

    def kill(self) -> None:
        """Kill all that belongs to it; workers go with it."""
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self._folder.name in (entry / "cmdline").read_text():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:  # gone meanwhile
                continue

    def wait_for_worker(self) -> None:
        """Wait until it has started a process that works for its first job."""
        until(lambda: any(Path(self._folder.name).glob("session_2*/logs/worker-*-01000000-*.out")))

    def server(self) -> int:
        """The process that knows the cluster."""
        servers = [
            int(entry.parent.name)
            for entry in Path("/proc").glob("[0-9]*/cmdline")
            if (command := _read(entry)).split("\0", 1)[0].endswith("gcs_server") and self._folder.name in command
        ]
        [server] = servers
        return server

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # gone meanwhile
        return ""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    """One at work, which a test may kill if it starts it again."""
    started = RayHead(next(free_ports()))
    started.start()
    yield started
    started.close()


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_head_answers_until_it_hangs(head: RayHead) -> None:
    door = Head(head.address, patience_s=60)
    assert door.answers()
    freeze(head.server())
    try:
        assert not door.answers()
    finally:
        os.kill(head.server(), signal.SIGCONT)
    assert door.answers()


@pytest.mark.ray
@pytest.mark.slow
def test_commands_whose_head_is_killed_say_how_to_go_on_and_a_search_ends_as_an_undisturbed_one(
    head: RayHead, tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    tasks = write_task(tmp_path / "tasks")
    execution = {"backend": "auto", "workers": 2, "cpus_per_worker": 1, "dtype": "float32", "device": "cpu"}
    config = write_config(tmp_path / "c.yaml", tiny_llama, tasks, execution=execution)
    one_worker = write_config(tmp_path / "o.yaml", tiny_llama, tasks, execution={**execution, "workers": 1})
    directory = tmp_path / "run"
    variables = {**OWN, "RAY_ADDRESS": head.address, HEAD: "40"}
    typed = ["connect", "base", "a", "--config", str(one_worker), "--points", "100000"]
    keeps_nothing = Command(typed, variables=variables)
    head.wait_for_worker()
    process = Command(["search", config, "--run", directory], variables=variables)
    deadline = time.monotonic() + LONG_S
    records = directory / "evaluations.jsonl"
    while not (records.exists() and records.read_bytes().count(b"\n") >= 12):
        assert process.poll() is None, process.communicate(LONG_S)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    head.kill()
    _, errors = process.communicate(LONG_S)
    port = head.address.rpartition(":")[2]  # Ray may have another name for the machine
    gone = rf"Error: Ray's head at \S+:{port} hasn't answered for 20 s: {GONE}\. "
    said = gone + rf"Nothing recorded is lost; continue with: evomerge resume {re.escape(str(directory))}"
    assert re.fullmatch(said, errors.splitlines()[-1]), errors
    assert process.returncode == os.EX_TEMPFAIL == 75
    assert not (directory / "result.json").exists()
    _, errors = keeps_nothing.communicate(LONG_S)
    said = gone + "What was measured isn't kept, and nothing else is lost; start again with: "
    said += re.escape(f"evomerge {shlex.join(typed)}")
    assert re.fullmatch(said, errors.splitlines()[-1]), errors
    assert keeps_nothing.returncode == os.EX_TEMPFAIL

    head.start()
    again = Command(["resume", directory], variables=variables)
    _, errors = again.communicate(LONG_S)
    assert again.returncode == 0, errors
    inline = {**execution, "backend": "inline", "workers": 1}
    search(Config.from_file(write_config(tmp_path / "i.yaml", tiny_llama, tasks, execution=inline)), tmp_path / "alone")
    assert essence(directory) == essence(tmp_path / "alone")


@pytest.mark.ray
@pytest.mark.slow
def test_python_outlives_the_head_of_its_cluster_and_goes_on_with_another(
    tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    config, directory = beheaded(tiny_llama, tmp_path), tmp_path / "run"
    done = run([config, directory, "going"], script=BEHEADED, variables={**UNHURRIED, HEAD: "40"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert re.fullmatch(LOST + re.escape(f"evomerge.resume({str(directory)!r})"), found["said"]), found["said"]
    assert found["machines"] == 2
    assert not found["connected"]
    inline = write_config(tmp_path / "i.yaml", tiny_llama, tmp_path / "tasks", execution={"device": "cpu"})
    search(Config.from_file(inline), tmp_path / "undisturbed")
    assert essence(directory) == essence(tmp_path / "undisturbed")


@pytest.mark.ray
@pytest.mark.slow
def test_a_head_that_goes_just_as_it_is_asked_is_lost_like_any_other(
    tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    config, directory = beheaded(tiny_llama, tmp_path), tmp_path / "run"
    done = run([config, directory, "asked"], script=BEHEADED, variables={**UNHURRIED, HEAD: "40"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert re.fullmatch(LOST + re.escape(f"evomerge.resume({str(directory)!r})"), found["said"]), found["said"]
    assert "Ray isn't left, and may yet end this process; go on in another one" in done.stderr


def beheaded(models: dict[str, Path], folder: Path) -> Path:
    """A config for a search on a cluster, with its task beside it."""
    return write_config(
        folder / "c.yaml", models, write_task(folder / "tasks"), execution={"backend": "ray", "device": "cpu"}
    )
