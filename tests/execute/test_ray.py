"""Ray workers: the same answers however many, and faults for real: killed, frozen and missing workers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ExecutionError
from evomerge.execute.base import Executor, Job, WorkerSettings
from evomerge.execute.inline import InlineExecutor
from evomerge.score.requests import GenerationRequest
from helpers.frozen import freeze
from helpers.patience import LONG_S
from helpers.worker import REQUESTS, answers, failure, job

pytestmark = pytest.mark.ray

ENDLESS = tuple(
    GenerationRequest(context=(1, 45 + index % 50, 45 + index // 50), stop=(), max_tokens=500) for index in range(2000)
)


@pytest.fixture
def make(local_ray: None, settings: WorkerSettings) -> Iterator[Callable[..., Any]]:
    from evomerge.execute.ray.executor import RayExecutor

    made: list[RayExecutor] = []

    def start(**changes: Any) -> RayExecutor:
        made.append(RayExecutor(**{"settings": settings, "workers": 1, "cpus_per_worker": 0.1, **changes}))
        made[-1].add_requests("search", REQUESTS)
        made[-1].add_requests("endless", ENDLESS)
        return made[-1]

    yield start
    for executor in made:
        executor.close()


def pid_of_only_worker(executor: Any, settings: WorkerSettings) -> int:
    [(_, outcome)] = executor.run([job(settings, 0, 0.5)])
    return int(answers(outcome).worker.rpartition(":")[2])


def with_the_first_on(pid: int, jobs: list[Job], *, kill: bool) -> Iterator[Job]:
    """Jobs, the first of which finds its worker frozen; the worker is killed shortly after, or stays so."""
    freeze(pid)
    if kill:
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    yield from jobs


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_answers_exactly_as_inline(
    make: Callable[..., Any], two_workers: Executor, settings: WorkerSettings, workers: int
) -> None:
    jobs = [job(settings, number, {"a": 0.1 * number, "b": 1 - 0.2 * number}) for number in range(6)]
    jobs.append(job(settings, 6, 1e300))
    inline = InlineExecutor(settings)
    inline.add_requests("search", REQUESTS)
    expected = {one.number: outcome for one, outcome in inline.run(jobs)}
    executor = two_workers if workers == 2 else make(workers=workers)
    executor.add_requests("search", REQUESTS)
    assert executor.workers == workers
    seen = {one.number: outcome for one, outcome in executor.run(jobs)}
    assert failure(seen.pop(6)) == failure(expected.pop(6))
    assert seen.keys() == expected.keys()
    for number, outcome in seen.items():
        assert answers(outcome).responses == answers(expected[number]).responses


def test_workers_are_forked_from_a_process_that_has_imported_what_they_need(
    two_workers: Executor, settings: WorkerSettings
) -> None:
    two_workers.add_requests("search", REQUESTS)
    outcomes = [answers(outcome) for _, outcome in two_workers.run([job(settings, n, 0.5) for n in range(8)])]
    pids = {outcome.worker.rpartition(":")[2] for outcome in outcomes}
    [parent] = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] for pid in pids}
    assert "--serve" in Path(f"/proc/{parent}/cmdline").read_text()


def test_a_killed_worker_is_replaced_and_its_job_done_again(make: Callable[..., Any], settings: WorkerSettings) -> None:
    executor = make()
    victim = pid_of_only_worker(executor, settings)
    jobs = [job(settings, 1, 0.5), job(settings, 2, 0.5)]
    outcomes = {one.number: answers(out) for one, out in executor.run(with_the_first_on(victim, jobs, kill=True))}
    assert sorted(outcomes) == [1, 2]
    assert outcomes[1].responses == outcomes[2].responses
    assert not outcomes[1].worker.endswith(f":{victim}")


def test_a_job_whose_worker_dies_too_often_fails_and_harms_no_other(
    make: Callable[..., Any], settings: WorkerSettings
) -> None:
    executor = make(retries=0)
    victim = pid_of_only_worker(executor, settings)
    jobs = [job(settings, 1, 0.5), job(settings, 2, 0.5)]
    outcomes = {one.number: out for one, out in executor.run(with_the_first_on(victim, jobs, kill=True))}
    failed = failure(outcomes[1])
    assert failed.reason == "worker_died"
    assert "trial 1: its worker died once, last on" in failed.message
    assert str(victim) in failed.message
    answers(outcomes[2])


def test_a_frozen_worker_is_killed_and_replaced_when_time_is_up(
    make: Callable[..., Any], settings: WorkerSettings
) -> None:
    executor = make(settings=replace(settings, timeout_s=8), grace_s=0.0)
    frozen = pid_of_only_worker(executor, settings)
    jobs = [job(settings, 1, 0.5), job(settings, 2, 0.5)]
    outcomes = {one.number: out for one, out in executor.run(with_the_first_on(frozen, jobs, kill=False))}
    assert failure(outcomes[1]).reason == "timeout"
    assert "its worker was killed" in failure(outcomes[1]).message
    answers(outcomes[2])
    deadline = time.monotonic() + LONG_S
    while Path(f"/proc/{frozen}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{frozen}").exists()


def test_a_slow_candidate_times_out_by_itself_and_the_worker_lives_on(
    make: Callable[..., Any], settings: WorkerSettings
) -> None:
    executor = make(settings=replace(settings, timeout_s=5), grace_s=60.0)
    before = pid_of_only_worker(executor, settings)
    [(_, outcome)] = executor.run([job(settings, 1, 0.5, "endless")])
    assert failure(outcome).reason == "timeout"
    assert pid_of_only_worker(executor, settings) == before


def test_results_that_arrived_while_the_caller_was_busy_are_not_called_late(
    make: Callable[..., Any], settings: WorkerSettings
) -> None:
    executor = make(workers=2, settings=replace(settings, timeout_s=4), grace_s=0.0)
    for number, (_, outcome) in enumerate(executor.run([job(settings, number, 0.1) for number in range(4)])):
        answers(outcome)
        if number == 0:
            time.sleep(5)


def test_workers_that_cannot_build_their_models_are_an_error_with_the_reason(
    make: Callable[..., Any], settings: WorkerSettings, tmp_path: Path
) -> None:
    gone = replace(settings.sources.base, path=str(tmp_path / "gone"))
    executor = make(settings=replace(settings, sources=replace(settings.sources, base=gone)))
    with pytest.raises(ExecutionError, match=r"no worker could be started: on .*gone"):
        list(executor.run([job(settings, 1, 0.5)]))


def test_each_worker_has_its_own_share_of_a_gpu(make: Callable[..., Any], settings: WorkerSettings) -> None:
    import ray

    def visible(_: Any) -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    executor = make(workers=2, gpus_per_worker=0.5)
    devices = ray.get([slot.actor.__ray_call__.remote(visible) for slot in executor._slots])
    assert set(devices) <= {"0", "1"}
    deadline = time.monotonic() + LONG_S
    while (free := ray.available_resources().get("GPU")) != 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert free == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"workers": 3, "gpus_per_worker": 1}, "room for 2"),
        ({"workers": 1, "gpus_per_worker": 3}, "no node of this machine has 3 GPUs; the most is 2"),
        ({"workers": 3, "cpus_per_worker": 2}, "3 of 2 CPUs each don't fit on this machine, which has 4 CPUs"),
        ({"workers": None, "cpus_per_worker": 64}, "room for 0"),
    ],
)
def test_more_than_there_is_is_refused_before_anything_starts(
    make: Callable[..., Any], asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ExecutionError, match=said):
        make(**asked)


@pytest.mark.parametrize(
    ("nodes", "workers", "threads", "gpus", "cpus"),
    [
        ([(4, 0)], 2, 4, 0, 2),
        ([(4, 0)], None, 1, 0, 1),
        ([(2, 0)], 4, 1, 0, 0.5),
        ([(2, 0)], None, 4, 0, 2),
        ([(16, 8)], None, 4, 1, 2),
        ([(8, 0), (16, 4)], None, 4, 1, 4),
        ([(16, 1)], None, 4, 0.25, 4),
        ([(2, 1)], None, 4, 0.25, 0.5),
    ],
)
def test_cores_are_shared_so_that_no_gpu_or_worker_is_left_out(
    nodes: list[tuple[float, float]], workers: int | None, threads: int, gpus: float, cpus: float
) -> None:
    from evomerge.execute.ray.cluster import Node, check_room, default_cpus

    cluster = [Node(*node) for node in nodes]
    assert default_cpus(cluster, workers, threads, gpus) == cpus
    expected = workers or sum(int(gpu / gpus if gpus else cpu / cpus) for cpu, gpu in nodes)
    assert check_room(cluster, workers, cpus, gpus, "here") == expected


def run_alone(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, where Ray isn't initialised."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        env={**os.environ, **environment},
        check=False,
    )


CONNECT = "from evomerge.execute.ray.executor import connect\nconnect({address!r}, gpus={gpus})"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpus_on_a_machine_without_any_are_refused_before_ray_starts() -> None:
    done = run_alone("import ray; ray.init = None\n" + CONNECT.format(address=None, gpus=True))
    assert "GPUs are asked for (execution.device or gpus_per_worker), but this machine has none" in done.stderr
    assert "ExecutionError" in done.stderr


def test_a_cluster_that_does_not_answer_is_refused_before_ray_is_asked() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Ray itself would try for many minutes.
    without = "import ray; ray.init = None\n"
    done = run_alone(without + CONNECT.format(address=None, gpus=False), RAY_ADDRESS=f"127.0.0.1:{port}")
    assert f"Ray cluster at '127.0.0.1:{port}'" in done.stderr
    assert "doesn't answer" in done.stderr
    assert "start it with `ray start --head`" in done.stderr


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001", "head-node"])
def test_an_address_of_another_kind_is_refused_with_the_right_form(address: str) -> None:
    from evomerge.execute.ray.cluster import _check_reachable

    with pytest.raises(ExecutionError, match=r"give host:port of the head, such as 10\.0\.0\.1:6379"):
        _check_reachable(address)


PRIVATE = """
import os, signal, sys
from contextlib import suppress
from pathlib import Path
from evomerge.config.execution import ExecutionConfig
from evomerge.execute.settings import make_executor
from helpers.commands import run
from helpers.worker import REQUESTS, answers, job, make_settings

settings = make_settings({name: Path(sys.argv[1]) / name for name in ("base", "a", "b")})
executor = make_executor(ExecutionConfig(workers=2, cpus_per_worker=0.5, device="cpu"), settings)
executor.add_requests("search", REQUESTS)
for _, outcome in executor.run([job(settings, 0, 0.5), job(settings, 1, 0.6)]):
    victim = answers(outcome).worker.rpartition(":")[2]
os.kill(int(victim), signal.SIGKILL)
done = sorted(one.number for one, outcome in executor.run([job(settings, 2, 0.5), job(settings, 3, 0.6)]))
unused = 0
for process in Path("/proc").glob("[0-9]*"):
    with suppress(OSError):  # somebody else's, or gone
        ours = os.environ["OURS"].encode() in (process / "environ").read_bytes()
        unused += ours and (process / "cmdline").read_text().startswith("ray::IDLE")
executor.close()
import ray
print(done, unused, ray.is_initialized())
"""


def test_a_private_ray_is_quiet_has_no_idle_processes_and_is_gone_after_closing(
    tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    path = os.pathsep.join(path for path in sys.path if path)
    done = run_alone(PRIVATE, str(tiny_llama["base"].parent), PYTHONPATH=path, OURS=str(tmp_path))
    assert done.stdout == "[2, 3] 0 False\n", done.stderr
    # That nothing has started yet is said where the machine is slow.
    waiting = r"(no worker has started yet; .*\n)*"
    assert re.fullmatch(waiting + r"worker \d \(.*\) died; starting another\n", done.stderr)


def test_from_config_gives_every_setting(local_ray: None, settings: WorkerSettings) -> None:
    from evomerge.execute.ray.executor import RayExecutor

    execution = ExecutionConfig(workers=1, cpus_per_worker=0.25, gpus_per_worker=0, retries=5, device="cpu")
    executor = RayExecutor.from_config(execution, settings)
    try:
        assert executor.workers == 1
        assert executor._retries == 5
    finally:
        executor.close()
