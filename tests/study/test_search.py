"""The whole search on real tiny models: results, resuming, budgets, honesty of the splits."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, ConfigError, ExecutionError, LockedError, ResumeError
from evomerge.run.directory import open_run
from evomerge.run.lock import lock
from evomerge.study.export import export
from evomerge.study.search import resume, search
from evomerge.testing.runs import essence
from helpers.search import Count, Interrupt, changed, kill_after_lines, start, write_config, write_task


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
        rivals = [model["name"] for model in models[:-1] if model["trial"] != models[-1]["trial"]]
        assert rivals[:3] == ["base", "a", "b"]
        assert [row["winner_vs"] for row in result[split]["comparisons"]] == rivals
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_other_algorithms_run_and_resume_as_exactly(tmp_path: Path, config: Config, algorithm: str) -> None:
    settings = changed(config, search={"algorithm": algorithm, "evaluations": 16})
    search(settings, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        search(settings, tmp_path / "broken", observer=Interrupt(12))
    search(settings, tmp_path / "broken")
    assert essence(tmp_path / "broken") == essence(tmp_path / "straight")


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


@pytest.mark.usefixtures("stock_results_alone")
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
