"""`evomerge init` and `evomerge check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.methods import METHODS
from helpers.search import write_config, write_task

pytestmark = pytest.mark.usefixtures("built_in_tasks")

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem != "demo")


def test_init_writes_a_config_that_is_valid(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "my experiment.yaml"
    done = cli("init", file)
    assert done.exit_code == 0
    assert f"evomerge check '{file}'" in done.stdout
    Config.from_file(file)


def test_init_never_overwrites(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("mine")
    done = cli("init", file)
    assert done.exit_code == 1
    assert "exists already" in done.stderr
    assert file.read_text() == "mine"


def test_methods_lists_each_with_its_coefficients(cli: Any) -> None:
    lines = {line.split()[0]: line for line in cli("methods").stdout.splitlines()}
    assert set(METHODS) <= set(lines)
    assert "weight" in lines["task_arithmetic"]


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_shows_everything_that_it_declares(cli: Any, name: str) -> None:
    done = cli("methods", name)
    assert done.exit_code == 0, done.stderr
    method = METHODS.get(name)
    for declared in (*method.parameters, *method.options):
        assert declared.name in done.stdout
        assert declared.description in done.stdout


def test_an_unknown_method_is_answered_with_the_nearest(cli: Any) -> None:
    done = cli("methods", "tyes")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: unknown merge method 'tyes'. Did you mean 'ties'?")


@pytest.fixture
def config(tmp_path: Path, tiny_llama: dict[str, Path]) -> Path:
    return write_config(tmp_path / "tiny.yaml", tiny_llama, write_task(tmp_path / "tasks"))


def test_check_shows_the_size_of_the_search(cli: Any, config: Path) -> None:
    done = cli("check", config)
    assert done.exit_code == 0, done.stderr
    for part in ("a folder", "coefficients over", "8 candidates a generation", "28 search", "12 search", "24 test"):
        assert part in done.stdout
    assert "in this process, in float32" in done.stdout
    assert " a candidate, with answers that share their context (" in " ".join(done.stdout.split())
    assert "tried out on the model when workers start" in " ".join(done.stdout.split())
    assert "only 3.5 generations" in done.stdout
    assert f"Next: evomerge search {config}" in done.stdout


def test_check_lists_every_coefficient_when_asked(cli: Any, config: Path) -> None:
    assert "weight" in cli("check", config, "--dimensions").stdout


def test_a_pilot_times_a_candidate(cli: Any, config: Path) -> None:
    done = cli("check", config, "--pilot")
    assert done.exit_code == 0, done.stderr
    assert "one candidate: " in done.stdout
    assert "the whole search: about " in done.stdout
    assert "each worker prepares the method once: " in done.stdout


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
    assert "not on this machine; downloaded when needed" in done.stdout
    assert "Unresolved models: " in done.stdout


def test_a_missing_folder_is_not_taken_for_a_download(cli: Any) -> None:
    shown = cli("check", ROOT / "configs" / "demo.yaml").stdout
    assert (ROOT / "demo").exists() or shown.count("no such folder") == 3


def test_a_pilot_needs_its_models(cli: Any) -> None:
    done = cli("check", CONFIGS[0], "--pilot")
    assert done.exit_code == 1
    assert "the pilot needs every model on this machine" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": {"method": "tyes"}}, "merge.method: unknown merge method 'tyes'"),
        ({"space": {"granularity": "layers"}}, "space.granularity"),
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


def test_a_missing_config_is_said_to_be_missing(cli: Any, tmp_path: Path) -> None:
    done = cli("check", tmp_path / "nope.yaml")
    assert done.exit_code == 1
    assert done.stderr == f"Error: {tmp_path / 'nope.yaml'}: can't be read: No such file or directory\n"


def test_the_command_says_what_failed_and_how_to_run_offline(cli: Any, config: Path) -> None:
    done = cli("prefetch", config)
    assert done.exit_code == 0, done.stderr
    assert "task tiny_choice: ready" in done.stdout
    assert "HF_HUB_OFFLINE=1" in done.stdout
    config.write_text(config.read_text().replace("- tiny_choice", "- tiny_choice\n  - xcopa_sw"))
    done = cli("prefetch", config)
    assert done.exit_code == 1
    assert "task xcopa_sw: failed" in done.stdout
    assert "1 of its models and tasks couldn't be had" in done.stderr
