"""The whole search on real tiny models: results, resuming, failures, honesty of the splits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, ConfigError, ExecutionError, LockedError, ResumeError
from evomerge.execute.base import Executor, Failure, Job, Outcome
from evomerge.run.answers import Parts
from evomerge.run.directory import open_run
from evomerge.run.ledger import Trial
from evomerge.run.lock import lock
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from evomerge.score.table import ItemTable
from evomerge.study import session as driver_module
from evomerge.study.export import export
from evomerge.study.search import resume, search
from evomerge.study.session import Driver
from helpers.search import essence, write_config, write_task


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path], tasks: Path) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "tiny.yaml", tiny_llama, tasks)


@pytest.fixture(scope="module")
def config(config_file: Path) -> Config:
    return Config.from_file(config_file)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "undisturbed"
    search(config, directory)
    return directory


def changed(config: Config, **changes: dict[str, Any]) -> Config:
    data = config.model_dump(mode="json")
    for section, values in changes.items():
        data[section].update(values)
    return Config.from_data(data)


class Interrupt(SilentObserver):
    """Presses Ctrl-C after so many evaluations."""

    def __init__(self, after: int) -> None:
        self.left = after

    def trial(self, record: TrialRecord) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Count(SilentObserver):
    """Counts what was evaluated."""

    def __init__(self) -> None:
        self.evaluated: list[int] = []

    def trial(self, record: TrialRecord) -> None:
        self.evaluated.append(record.number)


def test_a_run_has_its_baselines_its_budget_and_a_complete_result(undisturbed: Path) -> None:
    run = open_run(undisturbed)
    trials = run.trials()
    assert [trial.kind for trial in trials[:7]] == ["base", "expert", "expert", *["uniform"] * 4]
    candidates = [trial for trial in trials if trial.kind == "candidate"]
    assert len(candidates) == 28
    assert [trial.generation for trial in candidates] == [0] * 8 + [1] * 8 + [2] * 8 + [3] * 4
    assert trials[-1].kind == "mean"
    assert all(trial.score is not None and trial.state == "complete" for trial in trials)

    result = run.result()
    assert result is not None
    for split, items in (("search", 12), ("validation", 12), ("test", 24)):
        models = result[split]["models"]
        assert [model["kind"] for model in models] == ["base", "expert", "expert", "uniform", "winner"]
        assert all(model["items"] == items for model in models)
        assert all(model["interval"][0] <= model["score"] <= model["interval"][1] for model in models)
        assert [row["winner_vs"] for row in result[split]["comparisons"]] == ["base", "a", "b", "uniform"]
    best = max((trial for trial in result["shortlist"]), key=lambda row: row["validation"])
    assert (
        best["validation"]
        == next(row for row in result["shortlist"] if row["trial"] == result["winner"]["trial"])["validation"]
    )


def test_only_the_winner_and_the_baselines_see_the_test_items(undisturbed: Path) -> None:
    run = open_run(undisturbed)
    result = run.result()
    assert result is not None
    tested = {item.trial for item in run.ledger().evaluations() if item.split == "test"}
    assert tested == {model["trial"] for model in result["test"]["models"]}
    described = run.facts["benchmark"]
    seen = {
        split: set(run.ledger().evaluation(0, split).table.tasks["tiny_choice"].items)
        for split in ("search", "validation", "test")
    }  # type: ignore[union-attr]
    assert described
    assert not seen["search"] & seen["validation"]
    assert not (seen["search"] | seen["validation"]) & seen["test"]


def test_the_same_command_again_finds_the_run_finished_and_evaluates_nothing(config: Config, undisturbed: Path) -> None:
    before = essence(undisturbed)
    count = Count()
    result = search(config, undisturbed, observer=count)
    assert count.evaluated == []
    assert result.data == open_run(undisturbed).result()
    assert essence(undisturbed) == before


@pytest.mark.parametrize("after", [1, 6, 13, 31, 37, 40])
def test_an_interrupted_search_continues_to_the_same_trials_and_winner(
    tmp_path: Path, config: Config, undisturbed: Path, after: int
) -> None:
    directory = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(config, directory, observer=Interrupt(after))
    count = Count()
    resume(directory, observer=count)
    assert essence(directory) == essence(undisturbed)
    assert len(count.evaluated) == len(essence(undisturbed)["tables"]) - after


def start(config_file: Path, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "evomerge", "search", str(config_file), "--run", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_after_lines(process: subprocess.Popen[str], path: Path, lines: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait(30)
    process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_driver_killed_at_random_moments_loses_nothing(tmp_path: Path, config_file: Path, undisturbed: Path) -> None:
    directory = tmp_path / "run"
    moments = sorted(random.Random(4).sample(range(2, 38), 3))
    for lines in moments:
        process = start(config_file, directory)
        kill_after_lines(process, directory / "evaluations.jsonl", lines)
        assert process.returncode == -signal.SIGKILL
    before = (directory / "evaluations.jsonl").read_bytes().rpartition(b"\n")[0]
    resume(directory)
    assert (directory / "evaluations.jsonl").read_bytes().startswith(before)
    assert essence(directory) == essence(undisturbed)


@pytest.fixture(scope="module")
def in_blocks(config: Config) -> Config:
    return changed(config, search={"block": 5})


@pytest.fixture(scope="module")
def undisturbed_in_blocks(tmp_path_factory: pytest.TempPathFactory, in_blocks: Config) -> Path:
    directory = tmp_path_factory.mktemp("blocks") / "run"
    search(in_blocks, directory)
    return directory


def test_a_search_in_blocks_finds_the_scores_of_one_at_once(
    in_blocks: Config, undisturbed: Path, undisturbed_in_blocks: Path
) -> None:
    whole, blocks = essence(undisturbed), essence(undisturbed_in_blocks)
    assert [trial[:3] for trial in blocks["trials"]] == [trial[:3] for trial in whole["trials"]]
    for number in range(7):  # baselines don't depend on the last bits of others
        assert blocks["tables"][number, "search"][0] == whole["tables"][number, "search"][0]
    lines = [json.loads(line) for line in (undisturbed_in_blocks / "parts.jsonl").read_text().splitlines()]
    assert [line["block"] for line in lines[:4]] == [0, 1, 2, 0]
    # The candidate is merged once for its three blocks.
    assert [line["seconds"]["materialise"] > 0 for line in lines[:4]] == [True, False, False, True]
    count = Count()
    search(in_blocks, undisturbed_in_blocks, observer=count)
    assert count.evaluated == []


@pytest.mark.parametrize("backend", ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_candidate_stopped_after_a_block_and_continued_has_the_same_bytes(
    tmp_path: Path, in_blocks: Config, undisturbed_in_blocks: Path, backend: str
) -> None:
    directory = tmp_path / "run"
    config = changed(in_blocks, execution={"backend": backend, "workers": 2 if backend == "ray" else None})
    asked: list[tuple[int, int]] = []

    def stop_odd_ones(trial: Trial, table: ItemTable) -> bool:
        asked.append((trial.number, sum(len(task.items) for task in table.tasks.values())))
        return trial.number % 2 == 0

    directory.mkdir()
    with Driver(config, directory, SilentObserver(), "here") as driver:
        trials = [driver.trial("base", "base"), driver.trial("expert", "a"), driver.trial("expert", "b")]
        driver.evaluate(trials, "search", go_on=stop_odd_ones)
        assert sorted(asked) == [(0, 5), (0, 10), (1, 5), (2, 5), (2, 10)]
        assert driver.ledger.evaluation(1, "search") is None
        (scores,) = driver.partial(trials[1], "search").tasks.values()
        assert len(scores.items) == 5
        before = (directory / "parts.jsonl").read_bytes()
    search(config, directory)
    assert (directory / "parts.jsonl").read_bytes().startswith(before)
    assert essence(directory) == essence(undisturbed_in_blocks)
    lines = [json.loads(line) for line in (directory / "parts.jsonl").read_text().splitlines()]
    done = [(line["trial"], line["split"], line["block"]) for line in lines]
    assert len(set(done)) == len(done)


@pytest.mark.slow
def test_a_driver_killed_between_blocks_recomputes_none_of_them(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path, undisturbed_in_blocks: Path
) -> None:
    file = write_config(
        tmp_path / "blocks.yaml",
        tiny_llama,
        tasks,
        search={"evaluations": 28, "population": 8, "scan": 4, "shortlist": 2, "block": 5},
    )
    directory = tmp_path / "run"
    for lines in (8, 21):
        process = start(file, directory)
        kill_after_lines(process, directory / "parts.jsonl", lines)
        assert process.returncode == -signal.SIGKILL
    before = (directory / "parts.jsonl").read_bytes().rpartition(b"\n")[0]
    resume(directory)
    assert (directory / "parts.jsonl").read_bytes().startswith(before)
    assert essence(directory) == essence(undisturbed_in_blocks)


def test_a_candidate_killed_before_its_evaluation_was_written_is_scored_from_its_blocks(
    tmp_path: Path, in_blocks: Config, undisturbed_in_blocks: Path
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    with Driver(in_blocks, directory, SilentObserver(), "here") as driver:
        trial = driver.trial("base", "base")
        parts = open_run(undisturbed_in_blocks).directory / "parts.jsonl"
        (directory / "parts.jsonl").write_text("".join(parts.read_text().splitlines(keepends=True)[:3]))
        driver.parts = Parts(directory)
        driver.evaluate([trial], "search")
        (evaluation,) = driver.ledger.evaluations()
    assert len((directory / "parts.jsonl").read_text().splitlines()) == 3
    assert evaluation.score == essence(undisturbed_in_blocks)["tables"][0, "search"][0]


@pytest.mark.slow
@pytest.mark.ray
def test_ray_with_any_number_of_workers_gives_the_inline_trials(
    tmp_path: Path, config: Config, undisturbed: Path
) -> None:
    for workers in (1, 2, 4):
        directory = tmp_path / f"ray-{workers}"
        search(changed(config, execution={"backend": "ray", "workers": workers, "cpus_per_worker": 0.5}), directory)
        assert essence(directory) == essence(undisturbed)


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_ray_driver_and_a_killed_worker_change_nothing(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path, undisturbed: Path
) -> None:
    file = write_config(
        tmp_path / "ray.yaml",
        tiny_llama,
        tasks,
        execution={"backend": "ray", "workers": 2, "cpus_per_worker": 1, "dtype": "float32"},
    )
    directory = tmp_path / "run"
    process = start(file, directory)
    kill_after_lines(process, directory / "evaluations.jsonl", 17)
    assert process.returncode == -signal.SIGKILL

    class KillAWorker(SilentObserver):
        done = False

        def trial(self, record: TrialRecord) -> None:
            if not self.done:
                self.done = True
                victims = worker_processes()
                assert victims
                os.kill(victims[0], signal.SIGKILL)

    resume(directory, observer=KillAWorker())
    assert essence(directory) == essence(undisturbed)


def worker_processes() -> list[int]:
    """Ray actors that are descendants of this process."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                titles[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])

    def is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid, title in titles.items() if title.startswith("ray::_Process") and is_ours(pid)]


class Sabotage:
    """An executor in which some candidates fail and others are slow to report."""

    def __init__(self, executor: Executor, fails: Callable[[Job], bool]) -> None:
        self._executor, self._fails = executor, fails
        self.workers = executor.workers
        self.add_requests = executor.add_requests
        self.close = executor.close

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        finished = list(self._executor.run(jobs))
        random.Random(len(finished)).shuffle(finished)
        for job, outcome in finished:
            failure = Failure(reason="not_finite", message=f"trial {job.number}: tensor x")
            yield job, failure if self._fails(job) else outcome


def sabotaged(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Job], bool]) -> None:
    make = driver_module.make_executor
    monkeypatch.setattr(driver_module, "make_executor", lambda *args: Sabotage(make(*args), fails))


def test_the_order_in_which_workers_answer_does_not_matter(
    tmp_path: Path, config: Config, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotaged(monkeypatch, lambda job: False)
    search(config, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(undisturbed)


def test_failed_candidates_are_failed_trials_and_the_search_goes_on(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotaged(monkeypatch, lambda job: job.split == "search" and job.number > 6 and job.number % 3 == 0)
    result = search(config, tmp_path / "run")
    trials = open_run(tmp_path / "run").trials()
    failed = [trial for trial in trials if trial.state == "failed"]
    assert {trial.number for trial in failed} == {number for number in range(7, len(trials)) if number % 3 == 0}
    assert all(trial.reason == f"not_finite: trial {trial.number}: tensor x" for trial in failed)
    assert result.winner not in {trial.number for trial in failed}
    count = Count()
    resume(tmp_path / "run", evaluations=28, observer=count)
    assert count.evaluated == []


def test_a_larger_budget_continues_the_same_search(tmp_path: Path, config: Config, undisturbed: Path) -> None:
    directory = tmp_path / "run"
    search(changed(config, search={"evaluations": 12}), directory)
    resume(directory, evaluations=28)
    longer = [trial for trial in open_run(directory).trials() if trial.kind == "candidate"]
    straight = [trial for trial in open_run(undisturbed).trials() if trial.kind == "candidate"]
    assert [dict(trial.parameters) for trial in longer] == [dict(trial.parameters) for trial in straight]
    assert [trial.score for trial in longer] == [trial.score for trial in straight]
    with pytest.raises(ResumeError, match="a budget can only grow"):
        resume(directory, evaluations=5)


def test_an_hour_limit_stops_before_a_new_generation_and_still_concludes(tmp_path: Path, config: Config) -> None:
    result = search(changed(config, search={"hours": 1e-9}), tmp_path / "run")
    assert result.data["evaluations"] == 0
    assert result.data["winner"]["kind"] in {"uniform", "mean"}


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_other_algorithms_run_and_resume_as_exactly(tmp_path: Path, config: Config, algorithm: str) -> None:
    settings = changed(config, search={"algorithm": algorithm, "evaluations": 16})
    search(settings, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        search(settings, tmp_path / "broken", observer=Interrupt(12))
    search(settings, tmp_path / "broken")
    assert essence(tmp_path / "broken") == essence(tmp_path / "straight")


def test_the_same_recipe_is_evaluated_once(tmp_path: Path, config: Config) -> None:
    with lock(tmp_path / "run"), driver_module.Driver(config, tmp_path / "run", SilentObserver(), "x") as driver:
        genome = driver.space.default()
        trials = [driver.trial("candidate", f"c{index}", genome, generation=0) for index in range(3)]
        driver.evaluate(trials[:2], "search")
        driver.evaluate(trials, "search")
        found = [driver.ledger.evaluation(trial.number, "search") for trial in trials]
    assert [item.same_as for item in found if item is not None] == [None, 0, 0]
    assert len({item.score for item in found if item is not None}) == 1


def test_another_config_or_a_second_driver_is_refused_and_nothing_changes(
    tmp_path: Path, config: Config, undisturbed: Path
) -> None:
    before = essence(undisturbed)
    with pytest.raises(ResumeError, match=r"search\.seed \(0 → 1\)"):
        search(changed(config, search={"seed": 1}), undisturbed)
    with lock(tmp_path / "run"), pytest.raises(LockedError, match="is driving this run"):
        search(config, tmp_path / "run")
    assert essence(undisturbed) == before


def test_changed_documents_are_refused_on_resume(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    tasks = write_task(tmp_path / "tasks")
    config = Config.from_file(write_config(tmp_path / "x.yaml", tiny_llama, tasks))
    with pytest.raises(KeyboardInterrupt):
        search(config, tmp_path / "run", observer=Interrupt(5))
    lines = (tasks / "test.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["question"] = "another question?"
    (tasks / "test.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    with pytest.raises(ResumeError, match="items"):
        search(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"merge": {"method": "tyes"}}, ConfigError, r"merge\.method: unknown merge method 'tyes'.*'ties'"),
        ({"merge": {"options": {"normalise": True}}}, ConfigError, r"merge\.options"),
        ({"search": {"algorithm": "cmaes"}}, ConfigError, r"search\.algorithm: unknown search algorithm 'cmaes'"),
        ({"search": {"options": {"nope": 1}}}, ConfigError, r"search\.options\.nope"),
        ({"benchmark": {"tasks": ["no_such_task"]}}, BenchmarkError, r"no_such_task"),
        ({"benchmark": {"tasks": [{"task": "tiny_choice", "metric": "f2"}]}}, BenchmarkError, r"f2"),
        ({"benchmark": {"splits": {"search": {"split": "train"}}}}, BenchmarkError, r"train"),
        ({"benchmark": {"splits": {"search": {"fraction": 0.001}}}}, BenchmarkError, r"search"),
        (
            {"benchmark": {"splits": {"search": "test", "validation": "validation", "test": "test"}}},
            BenchmarkError,
            r"test",
        ),
        ({"merge": {"method": "slerp"}, "models": {"experts": {}}}, ConfigError, r"models\.experts"),
        ({"execution": {"device": "cuda"}}, ExecutionError, r"no usable GPU"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, config: Config, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        search(changed(config, **changes), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_exported_winner_has_the_ledgers_score_in_stock_lm_eval(
    tmp_path: Path, tasks: Path, undisturbed: Path
) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    out = export(undisturbed, tmp_path / "merged")
    model = HFLM(pretrained=str(out), device="cpu", dtype="float32", batch_size=4)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(model=model, tasks=["tiny_choice"], task_manager=manager, bootstrap_iters=0)
    run = open_run(undisturbed)
    result = run.result()
    assert result is not None
    (winner,) = [model for model in result["test"]["models"] if model["kind"] == "winner"]
    assert winner["score"] == found["results"]["tiny_choice"]["acc,none"]
    card = (out / "README.md").read_text()
    assert f"| winner | {winner['score']:.4f} |" in card
    assert (out / "recipe.yaml").exists()
