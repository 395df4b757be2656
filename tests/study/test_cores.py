"""How cores are shared out: which splits are tried, what is made of their seconds, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ExecutionError
from evomerge.execute import settings as settings_module
from evomerge.execute.base import Answers, Failure, Job, Outcome
from evomerge.study import cores as cores_module
from evomerge.study.check import check
from evomerge.study.cores import CoreSplit, core_splits, time_cores
from evomerge.study.pilot import PilotReport
from helpers.search import write_config, write_task

PILOT = PilotReport(
    workers=1, seconds={"materialise": 2.0, "respond": 10.0}, prepare_s=0, peak_bytes=0, on_gpu=False, costs={}, hours=0
)


@pytest.fixture
def config(tmp_path: Path, tiny_llama: dict[str, Path]) -> Config:
    config = Config.from_file(write_config(tmp_path / "x.yaml", tiny_llama, write_task(tmp_path / "tasks")))
    return config.model_copy(update={"execution": ExecutionConfig()})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One with six cores and room for five gigabytes."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for module in (settings_module, cores_module):
        monkeypatch.setattr(module, "cores", lambda: 6)
    monkeypatch.setattr(cores_module, "available_bytes", lambda: 5 * 10**9)
    return monkeypatch


def test_ever_twice_as_many_workers_are_tried_as_far_as_cores_and_memory_go(machine: pytest.MonkeyPatch) -> None:
    assert core_splits(ExecutionConfig(), "cpu", 10**9) == [(2, 3), (4, 1)]
    assert core_splits(ExecutionConfig(), "cpu", 2 * 10**9) == [(2, 3)]
    assert core_splits(ExecutionConfig(), "cpu", 3 * 10**9) == []
    assert core_splits(ExecutionConfig(cpus_per_worker=1), "cpu", 10**9) == [(2, 1), (4, 1)]
    assert core_splits(ExecutionConfig(cpus_per_worker=3), "cpu", 10**9) == [(2, 3)]


@pytest.mark.parametrize(
    "decided", [{"workers": 1}, {"max_workers": 2}, {"backend": "inline"}, {"ray_address": "10.0.0.1:6379"}]
)
def test_nothing_is_tried_where_the_config_has_decided(machine: pytest.MonkeyPatch, decided: dict[str, Any]) -> None:
    assert core_splits(ExecutionConfig(**decided), "cpu", 1) == []


def test_nothing_is_tried_where_gpus_or_a_cluster_compute(machine: pytest.MonkeyPatch) -> None:
    assert core_splits(ExecutionConfig(), "cuda", 1) == []
    machine.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert core_splits(ExecutionConfig(), "cpu", 1) == []


class Stated:
    """An executor of workers that take as long as stated, the last of which is slow to come up."""

    def __init__(self, workers: int, threads: int) -> None:
        self._workers, self._threads, self._runs = workers, threads, 0
        self.requests = 0

    def add_requests(self, split: str, requests: Any, blocks: Any = None) -> None:
        self.requests = len(requests)

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        self._runs += 1
        for place, job in enumerate(jobs):
            assert job is not None
            up = self._workers - (self._runs == 1)
            # By 3 threads twice as fast as by one; the first answers, and those at the end, say nothing.
            counts = self._runs > 2 and place < 2 * self._workers
            seconds = {"prepare": 9.0, "materialise": 6.0 / self._threads, "respond": 0.5 * self.requests}
            yield (
                job,
                Answers(responses=(), seconds=seconds if counts else {"materialise": 1e9}, worker=str(place % up)),
            )

    def close(self) -> None:
        pass


def test_a_candidate_costs_its_merge_and_all_its_items_whatever_was_timed(
    machine: pytest.MonkeyPatch, config: Config
) -> None:
    experiment = check(config).experiment
    assert experiment is not None
    made: list[Stated] = []

    def make(execution: ExecutionConfig, settings: Any) -> Stated:
        assert settings.threads == execution.cpus_per_worker
        made.append(Stated(execution.workers or 0, settings.threads))
        return made[-1]

    machine.setattr(cores_module, "make_executor", make)
    machine.setenv("OMP_NUM_THREADS", "6")
    said: list[str] = []
    found = time_cores(experiment, PILOT, 10**9, report=said.append)
    items = len(experiment.benchmark.requests("search"))
    # Half of the ten seconds of answers.
    assert [one.requests for one in made] == [items // 2, items // 2]
    assert found == [
        CoreSplit(workers=1, threads=6, per_minute=5.0),
        CoreSplit(workers=2, threads=3, per_minute=pytest.approx(60 * 2 / (2 + 0.5 * items))),
        CoreSplit(workers=4, threads=1, per_minute=pytest.approx(60 * 4 / (6 + 0.5 * items))),
    ]
    assert said == ["timing 2 workers of 3 threads each", "timing 4 workers of 1 thread each"]


def test_a_candidate_that_fails_is_told_of(machine: pytest.MonkeyPatch, config: Config) -> None:
    experiment = check(config).experiment
    assert experiment is not None

    class Failing(Stated):
        def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
            for job in jobs:
                assert job is not None
                yield job, Failure(reason="out_of_memory", message="there is none left")

    machine.setattr(cores_module, "make_executor", lambda execution, settings: Failing(2, 3))
    with pytest.raises(ExecutionError, match="out_of_memory: there is none left"):
        time_cores(experiment, PILOT, 10**9, report=lambda what: None)
