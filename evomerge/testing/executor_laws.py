"""What every executor must keep: one function per law, taking an executor and the settings of its workers.

```python
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_my_executor(law):
    law(executor, settings)
```
One executor may serve all of `LAWS`, one after the other; each of `CLOSING_LAWS` needs one of its own.
The settings are those of `make_settings` over a family from `tiny_family`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from evomerge.errors import ExecutionError
from evomerge.execute.base import Executor, Job, Outcome, WorkerSettings
from evomerge.score.requests import Response
from evomerge.testing.expecting import refused
from evomerge.testing.jobs import NOT_FINITE, REQUESTS, alike, answers, failure, in_request_order, job

Law = Callable[[Executor, WorkerSettings], None]

_BLOCKS = ((0, 3), (1, 4), (2,))


def returns_every_job_once_with_its_own_outcome(executor: Executor, settings: WorkerSettings) -> None:
    """Every job comes back once, as it was given, with one answer for each request of its split."""
    executor.add_requests("search", REQUESTS)
    executor.add_requests("test", REQUESTS[:1])
    jobs = [job(settings, number, 0.1 * number, split) for number in range(4) for split in ("search", "test")]
    jobs.append(job(settings, 9, NOT_FINITE))
    outcomes = list(executor.run(jobs))
    assert len(outcomes) == len(jobs)
    assert {(done.number, done.split) for done, _ in outcomes} == {(one.number, one.split) for one in jobs}
    for done, outcome in outcomes:
        assert done in jobs
        if done.number == 9:
            failure(outcome)
        else:
            assert len(answers(outcome).responses) == (len(REQUESTS) if done.split == "search" else 1)


def has_nothing_to_say_of_no_jobs(executor: Executor, settings: WorkerSettings) -> None:
    """No jobs, no outcomes."""
    assert executor.workers >= 1
    assert list(executor.run([])) == []


def returns_a_failure_as_a_value_that_harms_no_other(executor: Executor, settings: WorkerSettings) -> None:
    """A candidate that can't be merged ends with a reason that names it; others are answered as without it."""
    executor.add_requests("search", REQUESTS)
    alone = _responses(executor, [job(settings, 0, 0.5)])[0]
    weights = {1: 0.5, 2: NOT_FINITE, 3: 0.5, 4: NOT_FINITE, 5: 0.5}
    outcomes = {one.number: out for one, out in executor.run(job(settings, *pair) for pair in weights.items())}
    for number, outcome in outcomes.items():
        if weights[number] == NOT_FINITE:
            found = failure(outcome)
            assert found.reason == "not_finite"
            assert f"trial {number}" in found.message
        else:
            assert answers(outcome).responses == alone


def answers_alike_in_any_order(executor: Executor, settings: WorkerSettings) -> None:
    """A candidate's answers depend neither on those before it nor on the worker; other candidates answer otherwise."""
    executor.add_requests("search", REQUESTS)
    jobs = [job(settings, number, {"a": 0.1 * number, "b": 1 - 0.2 * number}) for number in range(5)]
    forward = _responses(executor, jobs)
    assert _responses(executor, jobs[::-1]) == forward
    assert _responses(executor, [*jobs[2:], *jobs[:2]]) == forward
    assert len(set(forward.values())) == len(jobs)


def draws_jobs_as_workers_become_free(executor: Executor, settings: WorkerSettings) -> None:
    """Jobs may be a generator; no more of it is drawn than workers can take."""
    executor.add_requests("search", REQUESTS)
    drawn: list[int] = []

    def jobs() -> Iterator[Job]:
        for number in range(6):
            drawn.append(number)
            yield job(settings, number, 0.1 * number)

    running = executor.run(jobs())
    next(running)
    assert len(drawn) <= executor.workers + 1
    assert len(list(running)) == 5


def goes_on_with_candidates_block_by_block(executor: Executor, settings: WorkerSettings) -> None:
    """A None is waited out, whatever depends on an outcome gets it first, and blocks together answer as the whole."""
    executor.add_requests("blocks", REQUESTS, _BLOCKS)
    for candidates in (1, executor.workers + 2):
        known: dict[int, list[Outcome]] = {number: [] for number in range(candidates)}
        for done, outcome in executor.run(_block_by_block(settings, known)):
            assert done.blocks == (len(known[done.number]),)
            known[done.number].append(outcome)
        whole = _responses(executor, [job(settings, number, 0.1 * number, "blocks") for number in range(candidates)])
        for number, outcomes in known.items():
            assert alike(in_request_order(_BLOCKS, [answers(outcome).responses for outcome in outcomes]), whole[number])


def answers_several_blocks_in_one_go(executor: Executor, settings: WorkerSettings) -> None:
    """Blocks that are asked for together are answered in the order of the requests, whatever their own."""
    executor.add_requests("blocks", REQUESTS, _BLOCKS)
    one = job(settings, 0, 0.5, "blocks")
    whole = _responses(executor, [one])[0]
    for blocks in ((2, 0), (1, 2, 0)):
        places = sorted(place for block in blocks for place in _BLOCKS[block])
        found = _responses(executor, [replace(one, blocks=blocks)])[0]
        assert alike(found, [whole[place] for place in places])


def lets_a_candidate_be_after_a_block(executor: Executor, settings: WorkerSettings) -> None:
    """Blocks that nobody asks for are not answered."""
    executor.add_requests("blocks", REQUESTS, _BLOCKS)
    outcomes = list(executor.run([replace(job(settings, number, 0.5, "blocks"), blocks=(0,)) for number in range(3)]))
    assert [len(answers(outcome).responses) for _, outcome in outcomes] == [len(_BLOCKS[0])] * 3


def stays_usable_when_a_run_is_abandoned(executor: Executor, settings: WorkerSettings) -> None:
    """Closing the outcomes early drops what was running, and none of it turns up later."""
    executor.add_requests("search", REQUESTS)
    running = executor.run([job(settings, number, 0.1 * number) for number in range(5)])
    next(running)
    running.close()  # type: ignore[attr-defined]
    [(done, outcome)] = executor.run([job(settings, 7, 0.5)])
    assert done.number == 7
    answers(outcome)


def lets_an_error_of_the_jobs_through(executor: Executor, settings: WorkerSettings) -> None:
    """What drawing a job raises reaches whoever draws the outcomes, and the executor stays usable."""
    executor.add_requests("search", REQUESTS)

    def jobs() -> Iterator[Job]:
        yield job(settings, 0, 0.5)
        raise LookupError("no more jobs")

    refused(LookupError, "no more jobs", lambda: list(executor.run(jobs())))
    assert list(_responses(executor, [job(settings, 1, 0.5)])) == [1]


def says_when_it_is_closed(executor: Executor, settings: WorkerSettings) -> None:
    """Closing twice is fine, and a closed executor runs nothing."""
    executor.close()
    executor.close()
    refused(ExecutionError, "closed", lambda: list(executor.run([job(settings, 0, 0.5)])))


def _block_by_block(settings: WorkerSettings, known: dict[int, list[Outcome]]) -> Iterator[Job | None]:
    """Each candidate's next block once the one before is known; None while there is none to begin."""
    begun = dict.fromkeys(known, 0)
    while any(count < len(_BLOCKS) for count in begun.values()):
        number = next((one for one, count in begun.items() if len(known[one]) == count < len(_BLOCKS)), None)
        if number is None:
            yield None
        else:
            begun[number] += 1
            yield replace(job(settings, number, 0.1 * number, "blocks"), blocks=(begun[number] - 1,))


def _responses(executor: Executor, jobs: list[Job]) -> dict[int, tuple[Response, ...]]:
    """The responses by number of job; every job has to be answered."""
    return {done.number: answers(outcome).responses for done, outcome in executor.run(jobs)}


LAWS: tuple[Law, ...] = (
    returns_every_job_once_with_its_own_outcome,
    has_nothing_to_say_of_no_jobs,
    returns_a_failure_as_a_value_that_harms_no_other,
    answers_alike_in_any_order,
    draws_jobs_as_workers_become_free,
    goes_on_with_candidates_block_by_block,
    answers_several_blocks_in_one_go,
    lets_a_candidate_be_after_a_block,
    stays_usable_when_a_run_is_abandoned,
    lets_an_error_of_the_jobs_through,
)
"""What is expected of an executor as long as it is open."""

CLOSING_LAWS: tuple[Law, ...] = (says_when_it_is_closed,)
"""What is expected of closing; the executor is closed afterwards."""
