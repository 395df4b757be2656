"""A Ray of one's own comes up on a machine where Ray itself would give up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from itertools import islice
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import ray

from evomerge.execute.ray.private import free_ports, listen_patiently, told_ports
from helpers.patience import UNHURRIED

LATE = """
import sys, time
if any(argument.endswith(("dashboard/agent.py", "runtime_env/agent/main.py")) for argument in sys.orig_argv):
    time.sleep(16)
"""
"""What Python does first in a process of an agent that Ray would wait 15 seconds for."""
PRIVATE = """
import os
import ray
from evomerge.execute.ray.cluster import connect
connect(None, gpus=False)
worker = ray.remote(num_cpus=0.1, runtime_env={"env_vars": {"OF_ITS_OWN": "1"}})(lambda: os.environ["OF_ITS_OWN"])
print(ray.get(worker.remote()))
ray.shutdown()
"""


@pytest.mark.ray
def test_a_ray_comes_up_whose_agents_come_late(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LATE)
    path = os.pathsep.join([str(tmp_path), *(os.path.abspath(path) for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE],
        env={**os.environ, **UNHURRIED, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["1"], done.stderr


@pytest.mark.parametrize("lacking", ["_private.services", "_private.services.start_raylet", "_raylet.persist_port"])
def test_a_ray_without_such_an_interface_starts_as_it_does(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    monkeypatch.delattr(f"ray.{lacking}")
    services = getattr(ray._private, "services", None)
    start = getattr(services, "start_raylet", None)
    with told_ports():
        assert getattr(services, "start_raylet", None) is start


def test_ray_starts_machines_as_before_afterwards() -> None:
    start = ray._private.services.start_raylet
    with told_ports():
        assert ray._private.services.start_raylet is not start
    assert ray._private.services.start_raylet is start


def test_free_ports_can_be_listened_at_and_others_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = islice(free_ports(), 1)
    with socket.create_server(("", port)):
        drawn = iter([port, port, port + 1, port + 2, port + 3])
        monkeypatch.setattr("random.SystemRandom.randrange", lambda *bounds: next(drawn))
        (other,) = islice(free_ports(), 1)
        assert other > port
        socket.create_server(("", other)).close()


class Errors:
    """A subscriber to errors, each of whose answers takes so many seconds of a clock of its own."""

    def __init__(self, *answers: tuple[float, object]) -> None:
        self.now = 0.0
        self.closed = False
        self._answers = iter(answers)

    def poll(self) -> object:
        seconds, answer = next(self._answers)
        self.now += seconds
        return answer

    def close(self) -> None:
        self.closed = True


def test_a_head_that_is_gone_is_not_asked_for_errors_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    error, none = (b"key", {"error_message": "late"}), (None, None)
    answers = [(0.0, error), (0.0, error), (60.0, none), (0.0, none), (0.0, None)]
    errors, pauses = Errors(*answers), list[float]()
    # Whoever leaves Ray sets this event, and so ends the pause.
    worker = SimpleNamespace(gcs_error_subscriber=errors, threads_stopped=SimpleNamespace(wait=pauses.append))
    monkeypatch.setattr("ray._private.worker.global_worker", worker)
    monkeypatch.setattr("evomerge.execute.ray.private.time", SimpleNamespace(monotonic=lambda: errors.now))
    for _ in range(2):  # the pause isn't taken twice
        listen_patiently()
    seen = []
    for _, answer in answers:
        assert worker.gcs_error_subscriber.poll() == answer
        seen.append(len(pauses))
    assert seen == [0, 0, 0, 1, 2]
    assert min(pauses) > 0
    worker.gcs_error_subscriber.close()
    assert errors.closed


@pytest.mark.parametrize("lacking", ["gcs_error_subscriber", "threads_stopped"])
def test_a_ray_that_listens_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    worker = SimpleNamespace(gcs_error_subscriber=Errors(), threads_stopped=Event())
    delattr(worker, lacking)
    before = dict(vars(worker))
    monkeypatch.setattr("ray._private.worker.global_worker", worker)
    listen_patiently()
    assert vars(worker) == before
