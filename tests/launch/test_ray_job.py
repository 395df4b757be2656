"""Submitting a search to a real Ray head on this machine: the job is killed, submitted again, and goes on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from evomerge.execute.ray.private import free_ports
from evomerge.testing.runs import essence
from helpers.patience import LONG_S, RAY
from helpers.search import write_config, write_task

ROOT = Path(__file__).parents[2]


@pytest.fixture
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head with a job server, in a process group of its own; its job server's address and the environment."""
    port, dashboard, agent, client = islice(free_ports(), 4)
    # A socket's path holds 107 characters, and pytest's folders under several workers leave too few for Ray's.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0" * 64,
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [
        *(*RAY, "start", "--head", "--block", "--num-cpus=2"),
        *(f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *("--dashboard-host=127.0.0.1", f"--ray-client-server-port={client}"),
        f"--temp-dir={folder}",
    ]
    with (folder / "log").open("w") as log:
        ray = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            text=True,
        )
    try:
        wait_until(lambda: answers_http(dashboard), LONG_S, ray, folder / "log")
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        ray.send_signal(signal.SIGTERM)
        try:
            ray.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(ray.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_job_submitted_again_ends_as_an_undisturbed_search(
    head: tuple[str, dict[str, str]], tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    from evomerge.config.config import Config
    from evomerge.study.search import search

    address, environment = head
    execution = {"backend": "auto", "workers": 1, "cpus_per_worker": 1, "dtype": "float32", "device": "cpu"}
    folder = tmp_path / "an experiment"
    tasks = write_task(folder / "tasks")
    changes = {"execution": execution, "benchmark": {"include_path": "tasks"}}
    config = write_config(folder / "my search.yaml", tiny_llama, tasks, **changes)
    run = tmp_path / "a run"
    command = [
        *(sys.executable, "-m", "evomerge", "launch", "ray-job", str(config), str(run), "--address", address),
        *("--source", f"{ROOT}/evomerge", "--out", str(tmp_path / "made"), "--cpus", "1"),
    ]

    log = tmp_path / "log"
    deadline = time.monotonic() + LONG_S
    while True:
        with log.open("w") as output:
            first = subprocess.Popen(command, env=environment, stdout=output, stderr=output, text=True)
        while first.poll() is None and not (run / "run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        # A head that answers may still be without the agent that takes jobs.
        if "No available agent" not in log.read_text() or time.monotonic() > deadline:
            break
    wait_until(lambda: lines(run / "evaluations.jsonl") > 15, LONG_S, first, log)
    os.kill(driver_of(run), signal.SIGKILL)
    assert first.wait(LONG_S) != 0, log.read_text()
    before = essence(run)
    assert before["result"] is None

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    inline = Config.from_file(write_config(tmp_path / "inline.yaml", tiny_llama, tasks))
    search(inline, tmp_path / "undisturbed")
    after, undisturbed = essence(run), essence(tmp_path / "undisturbed")
    assert before["tables"].items() <= after["tables"].items()
    assert after == undisturbed


def answers_http(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"GET /api/version HTTP/1.0\r\n\r\n")
            return connection.recv(12)[9:12] in {b"200", b"401"}
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float, alive: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if alive.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"not in time: {log.read_text()}")
        time.sleep(0.05)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def driver_of(run: Path) -> int:
    """The process that runs `evomerge search` on this run directory."""
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if str(run) in words and "search" in words:
            return int(folder.name)
    pytest.fail(f"no search is running on {run}")
