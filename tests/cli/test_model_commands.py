"""`evomerge merge` and `evomerge export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from helpers.search import write_config, write_task


@pytest.fixture
def recipe(tmp_path: Path, tiny_llama: dict[str, Path]) -> Path:
    path = tmp_path / "recipe.yaml"
    made = Recipe(
        base=ModelReference(path=str(tiny_llama["base"])),
        experts={name: ModelReference(path=str(tiny_llama[name])) for name in ("a", "b")},
        method="task_arithmetic",
        groups=(Group(name="all", coefficients={"weight": {"a": 0.5, "b": 0.25}}),),
    )
    path.write_text(made.to_yaml())
    return path


def test_merge_writes_a_model_folder_that_holds_its_recipe(cli: Any, tmp_path: Path, recipe: Path) -> None:
    out = tmp_path / "merged"
    done = cli("merge", recipe, out)
    assert (done.exit_code, done.stderr) == (0, "")
    counted, wrote, following = done.stdout.splitlines()
    stored = len(load_file(out / "model.safetensors"))
    assert counted == f"Note: tensors: {stored} in each model; {stored} are merged"
    assert wrote.startswith(f"Wrote {out}: 1 file of weights (")
    assert {"config.json", "recipe.yaml"} <= set(wrote.replace(",", "").split())
    assert following == f"Next: evomerge score {out} --tasks TASK"
    again = tmp_path / "again"
    assert cli("merge", out / "recipe.yaml", again).exit_code == 0
    first, second = load_file(out / "model.safetensors"), load_file(again / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_merge_takes_mergekits_files_as_they_are(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    file = tmp_path / "mergekit.yml"
    file.write_text(
        f"""
merge_method: task_arithmetic
base_model: {tiny_llama["base"]}
models:
  - model: {tiny_llama["a"]}
    parameters: {{weight: 0.5}}
dtype: float32
"""
    )
    done = cli("merge", file, tmp_path / "merged")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "merged" / "recipe.yaml").exists()


def test_what_is_hardly_meant_is_said_before_merging(cli: Any, tmp_path: Path, recipe: Path) -> None:
    text = recipe.read_text().replace("groups:\n", "groups:\n- name: typo\n  names: [selfattn]\n  coefficients: {}\n")
    recipe.write_text(text)
    done = cli("merge", recipe, tmp_path / "merged")
    assert done.exit_code == 0, done.stderr
    said, _, _ = done.stdout.partition("Wrote ")
    assert "Note: group 'typo' contains no tensor that no earlier group contains" in said


def test_shards_are_of_the_size_asked_for(cli: Any, tmp_path: Path, recipe: Path) -> None:
    assert cli("merge", recipe, tmp_path / "merged", "--shard-size", "100KB").exit_code == 0
    assert (tmp_path / "merged" / "model.safetensors.index.json").exists()


def test_a_wrong_recipe_is_a_message_and_leaves_nothing(cli: Any, tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("task_arithmetic", "task_arithmetics"))
    done = cli("merge", recipe, tmp_path / "merged")
    assert done.exit_code == 1
    assert "unknown merge method 'task_arithmetics'" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("found", "wrong", "message"),
    [
        ("weight:", "wieght:", "groups[0] (all): coefficients: unknown coefficient 'wieght'"),
        ("dtype: auto", "dtype: fp16", "dtype: unknown dtype 'fp16'"),
        ("models:\n", "models:\n  slices: [{base: [0, 7]}]\n", "models.slices[0].base: layers 0 to 7, but it has"),
    ],
)
def test_what_does_not_fit_the_models_is_said_with_the_recipes_name(
    cli: Any, tmp_path: Path, recipe: Path, found: str, wrong: str, message: str
) -> None:
    text = recipe.read_text()
    assert found in text
    recipe.write_text(text.replace(found, wrong))
    done = cli("merge", recipe, tmp_path / "merged")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {recipe}: {message}")


def test_a_folder_that_is_not_empty_is_not_written_into(cli: Any, tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = cli("merge", recipe, tmp_path / "mine")
    assert done.exit_code == 1
    assert str(tmp_path / "mine") in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_exporting_an_unknown_trial_is_refused(cli: Any, tmp_path: Path, run: Path) -> None:
    done = cli("export", run, tmp_path / "out", "--trial", "99")
    assert done.exit_code == 1
    assert "no trial 99; it has trials 0 to 5" in done.stderr
    assert not (tmp_path / "out").exists()


def test_score_shows_every_metric_of_every_task(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    tasks = write_task(tmp_path / "tasks")
    done = cli("score", tiny_llama["a"], "--tasks", "tiny_choice", "--include-path", tasks)
    assert done.exit_code == 0, done.stderr
    line = done.stdout.splitlines()[-1].split()
    assert line[:3] == ["tiny_choice", "acc,none", "24"]


def test_score_takes_the_items_of_an_experiment(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    config = write_config(tmp_path / "x.yaml", tiny_llama, write_task(tmp_path / "tasks"))
    done = cli("score", tiny_llama["a"], "--config", config, "--split", "search")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[:3] == ["tiny_choice", "acc,none", "12"]


@pytest.mark.parametrize("options", [[], ["--tasks", "a", "--config", "b"]])
def test_score_wants_either_tasks_or_a_config(cli: Any, options: list[str]) -> None:
    done = cli("score", "x", *options)
    assert done.exit_code == 2
    assert "give either --tasks or --config" in done.stderr


def test_score_wants_a_task(cli: Any) -> None:
    assert "names no task" in cli("score", "x", "--tasks", " , ").stderr


def shown_score(done: Any) -> tuple[int, float]:
    """Items and score of the only line."""
    assert done.exit_code == 0, done.stderr
    line = done.stdout.splitlines()[-1].split()
    return int(line[2]), float(line[3])


@pytest.mark.slow
def test_a_limit_takes_the_first_items_and_no_config_is_needed(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    tasks = write_task(tmp_path / "tasks")
    few = write_task(tmp_path / "few")
    for split in ("validation", "test"):
        lines = (few / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (few / f"{split}.jsonl").write_text("".join(lines[:6]))
    options = ("--tasks", "tiny_choice", "--include-path")
    first = cli("score", tiny_llama["a"], *options, few)
    assert shown_score(cli("score", tiny_llama["a"], *options, tasks, "--limit", 6)) == shown_score(first)
    quarter = cli("score", tiny_llama["a"], *options, tasks, "--limit", 0.25, "--batch-size", 2, "--dtype", "float32")
    assert shown_score(quarter) == shown_score(first)
    assert "scoring 6 items" in quarter.stderr


@pytest.mark.parametrize("limit", ["0", "-1", "2.5"])
def test_a_limit_that_means_nothing_is_refused(cli: Any, limit: str) -> None:
    done = cli("score", "x", "--tasks", "t", f"--limit={limit}")
    assert done.exit_code == 2
    assert "--limit" in done.stderr


def test_what_is_asked_for_reaches_the_benchmark(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import evomerge.study.score_model as scoring

    seen: list[Any] = []
    real = scoring.open_benchmark

    def look(config: Any, base: Any, **more: Any) -> Any:
        seen.append(config)
        return real(config, base, **more)

    monkeypatch.setattr(scoring, "open_benchmark", look)
    options = ("--tasks", "tiny_choice", "--include-path", write_task(tmp_path / "tasks"), "--limit", 2)
    asked = ("--apply-chat-template", "--system-instruction", "Answer.", "--dtype", "bfloat16")
    assert cli("score", tiny_llama["a"], *options, *asked).exit_code == 0
    (config,) = seen
    assert (config.benchmark.apply_chat_template, config.benchmark.system_instruction) == (True, "Answer.")
    assert config.execution.dtype == "bfloat16"


@pytest.mark.parametrize("role", ["base", "a"])
def test_a_model_that_is_not_there_is_said_with_the_recipes_name(
    cli: Any, tmp_path: Path, recipe: Path, tiny_llama: dict[str, Path], role: str
) -> None:
    recipe.write_text(recipe.read_text().replace(str(tiny_llama[role]), "/none/such"))
    done = cli("merge", recipe, tmp_path / "merged")
    called = "base" if role == "base" else "expert 'a'"
    assert done.exit_code == 1
    assert done.stderr.startswith(
        f"Error: {recipe}: {called}: /none/such: no such folder; give a model folder or a hub"
    )
