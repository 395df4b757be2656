"""`evomerge check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.execute import settings
from evomerge.study import cores
from helpers.search import write_config, write_task

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem != "demo")


@pytest.fixture
def config(tmp_path: Path, tiny_llama: dict[str, Path]) -> Path:
    return write_config(tmp_path / "tiny.yaml", tiny_llama, write_task(tmp_path / "tasks"))


def test_check_shows_the_size_of_the_search(cli: Any, config: Path) -> None:
    done = cli("check", config)
    assert done.exit_code == 0, done.stderr
    for part in ("a folder", "coefficients over", "8 candidates a generation", "29 search", "12 search", "24 test"):
        assert part in done.stdout
    assert "in this process, in float32" in done.stdout
    assert " a candidate, with answers that share their context (" in " ".join(done.stdout.split())
    assert " with padding, against " in " ".join(done.stdout.split())
    assert "tried out on the model when workers start" in " ".join(done.stdout.split())
    assert "only 3.5 generations" in done.stdout
    assert f"Next: evomerge search {config}" in done.stdout


def test_a_value_set_beside_the_config_is_checked_with_it_and_goes_into_the_next_command(
    cli: Any, config: Path
) -> None:
    done = cli("check", config, "--set", "search.population=5")
    assert done.exit_code == 0, done.stderr
    assert "5 candidates a generation" in done.stdout
    assert f"search {config} --set search.population=5" in done.stdout
    wrong = cli("check", config, "--set", "search.evaluations=none")
    assert (wrong.exit_code, wrong.stderr) == (
        1, f"Error: {config} with --set: search.evaluations: expected a whole number (found 'none')\n"
    )  # fmt: skip


def test_check_lists_every_coefficient_when_asked(cli: Any, config: Path) -> None:
    assert "weight" in cli("check", config, "--dimensions").stdout


def test_a_model_that_is_a_recipe_is_sized(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    recipe = tmp_path / "both.yaml"
    parts = [{"model": str(tiny_llama[name]), "parameters": {"weight": 1.0}} for name in ("a", "b")]
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": parts}))
    models = {**tiny_llama, "a": recipe}
    done = cli("check", write_config(tmp_path / "tiny.yaml", models, write_task(tmp_path / "tasks")))
    text = " ".join(done.stdout.split())
    assert done.exit_code == 0
    assert " merged first 173 kB " in text
    assert "173 kB for what is merged first" in text
    assert (
        "Note: models.experts.a is a recipe; the search first merges it into RUN/merged/a, which takes 173 kB" in text
    )


def test_a_pilot_times_a_candidate(cli: Any, config: Path) -> None:
    done = cli("check", config, "--pilot")
    assert done.exit_code == 0, done.stderr
    assert "pilot: timing a candidate, 3 of 3, on 12 search items ..." in done.stdout
    assert "one candidate on the search items: " in done.stdout
    assert "Python and libraries" in done.stdout
    assert "the whole search: about " in done.stdout
    assert "each worker prepares the method once: " in done.stdout


@pytest.mark.ray
def test_a_pilot_times_several_workers_side_by_side(
    cli: Any, config: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (settings, cores):
        monkeypatch.setattr(module, "cores", lambda: 2)
    done = cli("check", config, "--pilot", "--set", "execution.backend=auto")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    at = lines.index("pilot: timing 2 workers of 1 thread each ...")
    assert lines[at + 1].startswith("1 worker of ")
    assert lines[at + 2].startswith("2 workers of 1 thread: ")
    rates = [float(line.split(": ")[1].split()[0].replace(",", "")) for line in lines[at + 1 : at + 3]]
    if rates[1] / rates[0] < 1.1:
        assert lines[at + 3] == "as the config says, one worker is about as fast as several on this machine"
    else:
        assert lines[at + 3].endswith("--set execution.workers=2 --set execution.cpus_per_worker=1")


def test_the_size_place_and_time_of_prepared_states_are_shown(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    tasks = write_task(tmp_path / "tasks")
    ties = {"merge": {"method": "ties"}}
    done = cli("check", write_config(tmp_path / "ties.yaml", tiny_llama, tasks, **ties), "--pilot")
    assert done.exit_code == 0, done.stderr
    shown = " ".join(done.stdout.split())
    # At most 13 bytes an entry and expert: of 43,232 entries in all.
    assert "prepared 1.1 MB once for the run, in RUN/prepared; mapped" in shown
    assert "for the export, 1.1 MB prepared" in shown
    assert "preparing the method: about " in shown
    assert "the method is prepared once for the run: " in shown
    elsewhere = {**ties, "execution": {"prepared_directory": "$TMPDIR/states"}}
    done = cli("check", write_config(tmp_path / "elsewhere.yaml", tiny_llama, tasks, **elsewhere))
    assert "in $TMPDIR/states; mapped" in " ".join(done.stdout.split())
    relative = write_config(tmp_path / "r.yaml", tiny_llama, tasks, execution={"prepared_directory": "states"})
    assert "give an absolute path" in cli("check", relative).stderr


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_real_configs_are_accepted_without_network(cli: Any, path: Path) -> None:
    done = cli("check", path)
    assert done.exit_code == 0, done.stderr
    assert "not on this machine" in done.stdout
    assert "Not checked: whether the models fit each other" in done.stdout
    assert f"Nothing wrong was found in what could be looked at. Next: evomerge prefetch {path}" in done.stdout


def with_paths(path: Path, models: dict[str, Path], others: dict[str, str], tasks: Path, **changes: Any) -> Path:
    """An experiment over the models, some of which are looked for elsewhere."""
    text = write_config(path, models, tasks, **changes).read_text()
    for name, other in others.items():
        text = text.replace(f"{name}: {models[name]}\n", f"{name}: {other}\n")
    path.write_text(text)
    return path


@pytest.mark.parametrize("missing", ["../nowhere", "/no/where/base", "a/b/c", "a file", "experts/none"])
def test_a_path_that_cannot_exist_is_a_mistake_named_by_its_key(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], missing: str
) -> None:
    (tmp_path / "a file").write_text("no model")
    (tmp_path / "experts").mkdir()
    config = with_paths(tmp_path / "x.yaml", tiny_llama, {"b": missing}, write_task(tmp_path / "tasks"))
    done = cli("check", config)
    assert done.exit_code == 1
    assert f"{config}: models.experts.b: " in done.stderr
    assert ("is a file" if missing == "a file" else "no such folder") in done.stderr
    assert "No mistake" not in done.stdout


def test_every_model_that_cannot_be_there_is_named(cli: Any) -> None:
    done = cli("check", ROOT / "configs" / "demo.yaml")
    assert (ROOT / "configs" / "demo").exists() or (done.exit_code, done.stderr.count("no such folder")) == (1, 3)


def test_an_expert_that_is_elsewhere_is_sized_as_the_base_and_said_to_be_unchecked(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], config: Path
) -> None:
    away = with_paths(tmp_path / "away.yaml", tiny_llama, {"b": "nobody/b"}, tmp_path / "tasks")
    done, all_here = cli("check", away), cli("check", config)
    assert done.exit_code == 0, done.stderr
    assert "Not checked: expert 'b': whether it fits the base" in done.stdout
    assert "No mistake was found" not in done.stdout
    assert "No mistake was found" in all_here.stdout

    def row(shown: str, key: str) -> str:
        return next(line for line in shown.splitlines() if line.startswith(key))

    for key in ("searched", "evaluations", "items", "tokens", "memory"):
        assert row(done.stdout, key).split("+")[0] == row(all_here.stdout, key).split("+")[0]


@pytest.mark.parametrize("away", ["b", "base"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": {"tasks": ["no_such_task"]}}, "benchmark.tasks[0].task: unknown task 'no_such_task'"),
        ({"benchmark": {"tasks": [{"task": "tiny_choice", "metric": "bleu"}]}}, "tasks[0].metric: unknown metric"),
        ({"benchmark": {"include_path": ["no/such/folder"]}}, "benchmark.include_path[0]: no such folder"),
        ({"storage": "somewhere"}, "neither `journal` nor the URL of a database"),
    ],
)
def test_tasks_metrics_folders_and_storage_are_looked_at_without_some_model(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], away: str, changes: dict[str, Any], message: str
) -> None:
    path = with_paths(tmp_path / "x.yaml", tiny_llama, {away: "nobody/x"}, write_task(tmp_path / "tasks"), **changes)
    done = cli("check", path)
    assert done.exit_code == 1, done.stdout
    assert f"Error: {path}: " in done.stderr
    assert message in done.stderr


def test_a_benchmark_that_cannot_be_reached_is_no_clean_bill(cli: Any, config: Path) -> None:
    config.write_text(config.read_text().replace("- tiny_choice", "- tiny_choice\n  - xcopa_sw"))
    done = cli("check", config)
    assert done.exit_code == 0, done.stderr
    assert "Not checked: the benchmark, whose data can't be reached from here" in done.stdout
    assert "No mistake was found" not in done.stdout


def test_a_pilot_needs_its_models(cli: Any) -> None:
    done = cli("check", CONFIGS[0], "--pilot")
    assert done.exit_code == 1
    assert "the pilot needs every model on this machine" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": {"method": "tyes"}}, "merge.method: unknown merge method 'tyes'"),
        ({"space": {"granularity": "layers"}}, "space.granularity"),
        ({"space": {"granularity": "blocks", "blocks": 40}}, "space.blocks: 40 blocks of"),
        ({"search": {"evalutions": 3}}, "Did you mean 'evaluations'?"),
        ({"space": {"parameters": {"weight": {"low": 1, "high": 0}}}}, "low 1 is not below high 0"),
        ({"benchmark": {"tasks": ["no_such_task"]}}, "no_such_task"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path], changes: dict[str, Any], message: str
) -> None:
    path = write_config(tmp_path / "tiny.yaml", tiny_llama, write_task(tmp_path / "tasks"), **changes)
    done = cli("check", path)
    assert done.exit_code == 1
    assert f"Error: {path}: " in done.stderr
    assert message in done.stderr
    assert done.stderr.count(str(path)) == 1, "the file is named once"


def test_a_missing_config_is_said_to_be_missing(cli: Any, tmp_path: Path) -> None:
    done = cli("check", tmp_path / "nope.yaml")
    assert done.exit_code == 1
    assert done.stderr == f"Error: {tmp_path / 'nope.yaml'}: can't be read: No such file or directory\n"


def test_code_of_tasks_is_run_only_when_asked_to(cli: Any, config: Path, tmp_path: Path) -> None:
    tasks = next(path for path in tmp_path.rglob("tiny_choice.yaml"))
    canary = tmp_path / "CANARY"
    (tasks.parent / "util.py").write_text(f"open({str(canary)!r}, 'w').close()\ndef same(docs): return docs\n")
    tasks.write_text(tasks.read_text() + "process_docs: !function util.same\n")
    done = cli("check", config)
    assert done.exit_code == 0, done.stderr
    assert "Not checked: the benchmark's metrics and items, since tasks of it run code" in done.stdout
    assert "util.py" in done.stdout
    assert "No mistake was found" not in done.stdout
    piloted = cli("check", config, "--pilot")
    assert piloted.exit_code == 1
    assert "--trust-tasks" in piloted.stderr
    assert not canary.exists()
    trusted = cli("check", config, "--trust-tasks")
    assert trusted.exit_code == 0, trusted.stderr
    assert "No mistake was found" in trusted.stdout
    assert canary.exists()


def test_candidates_that_may_be_stopped_are_counted_by_what_they_may_answer(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    tasks = write_task(tmp_path / "tasks")
    search = {"population": 4, "block": 3, "pruner": "standard_error", "budget": {"items": 60}}
    shown = " ".join(cli("check", write_config(tmp_path / "s.yaml", tiny_llama, tasks, search=search)).stdout.split())
    assert ", each of all items that one may answer" in shown
    assert " a candidate that answers all items, with " in shown
    assert "5 to 20 evaluations are 1.2 to 5.0 generations of 4" in shown
    plain = cli("check", write_config(tmp_path / "p.yaml", tiny_llama, tasks, search={"evaluations": 8})).stdout
    assert "of all items" not in plain
