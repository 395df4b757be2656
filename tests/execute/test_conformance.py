"""Every registered executor keeps every law of executors, and ones that don't are found out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from evomerge.config.execution import ExecutionConfig
from evomerge.execute import EXECUTORS
from evomerge.execute.base import Answers, Executor, Job, Outcome, WorkerSettings
from evomerge.execute.inline import InlineExecutor
from evomerge.testing import executor_laws
from evomerge.testing.executor_laws import CLOSING_LAWS, LAWS, Law

BACKENDS = [pytest.param(name, marks=pytest.mark.ray) if name == "ray" else name for name in EXECUTORS]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def start(request: pytest.FixtureRequest, backend: str, settings: WorkerSettings) -> Any:
    if backend == "ray":
        request.getfixturevalue("local_ray")
    config = ExecutionConfig(cpus_per_worker=4, device="cpu")
    return EXECUTORS.get(backend).from_config(config, settings)  # type: ignore[attr-defined]


@pytest.fixture(params=BACKENDS)
def executor(request: pytest.FixtureRequest, settings: WorkerSettings) -> Iterator[Executor]:
    if request.param == "ray":
        yield request.getfixturevalue("two_workers")
    else:
        found = start(request, request.param, settings)
        yield found
        found.close()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_executor_keeps_every_law(executor: Executor, settings: WorkerSettings, law: Law) -> None:
    law(executor, settings)


@pytest.mark.parametrize("law", CLOSING_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_executor_keeps_every_law_of_closing(
    request: pytest.FixtureRequest, settings: WorkerSettings, backend: str, law: Law
) -> None:
    law(start(request, backend, settings), settings)


class Forgetful(InlineExecutor):
    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        yield from list(super().run(jobs))[:-1]


class Greedy(InlineExecutor):
    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        yield from super().run(list(jobs))


class Raising(InlineExecutor):
    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        for done, outcome in super().run(jobs):
            assert not hasattr(outcome, "reason"), outcome
            yield done, outcome


class Muddled(InlineExecutor):
    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        outcomes = list(super().run(jobs))
        yield from zip([done for done, _ in outcomes], [outcome for _, outcome in outcomes[::-1]], strict=True)


class Blockless(InlineExecutor):
    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        yield from super().run(None if one is None else replace(one, blocks=None) for one in jobs)


class Reversed(InlineExecutor):
    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        for done, outcome in super().run(jobs):
            assert isinstance(outcome, Answers)
            several = done.blocks is not None and len(done.blocks) > 1
            yield done, replace(outcome, responses=outcome.responses[::-1]) if several else outcome


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Forgetful, executor_laws.returns_every_job_once_with_its_own_outcome),
        (Greedy, executor_laws.draws_jobs_as_workers_become_free),
        (Raising, executor_laws.returns_a_failure_as_a_value_that_harms_no_other),
        (Muddled, executor_laws.answers_alike_in_any_order),
        (Muddled, executor_laws.returns_every_job_once_with_its_own_outcome),
        (Blockless, executor_laws.lets_a_candidate_be_after_a_block),
        (Blockless, executor_laws.goes_on_with_candidates_block_by_block),
        (Blockless, executor_laws.answers_several_blocks_in_one_go),
        (Reversed, executor_laws.answers_several_blocks_in_one_go),
    ],
)
def test_an_executor_that_breaks_a_law_is_found_out(
    settings: WorkerSettings, broken: type[InlineExecutor], law: Law
) -> None:
    with pytest.raises(AssertionError):
        law(broken(settings), settings)
