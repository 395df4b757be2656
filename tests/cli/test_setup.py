"""`evomerge init`, `methods` and `prefetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.methods import METHODS
from helpers.search import write_config, write_task


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
    nowhere = cli("init", tmp_path / "none" / "x.yaml")
    assert (nowhere.exit_code, f"there is no folder {tmp_path / 'none'}; make it" in nowhere.stderr) == (1, True)


def test_methods_lists_each_with_its_coefficients(cli: Any) -> None:
    lines = {line.split()[0]: line for line in cli("methods").stdout.splitlines() if line.strip()}
    assert set(METHODS) <= set(lines)
    assert "(weight)" in lines["task_arithmetic"]
    assert all(len(line.rstrip()) <= 80 for line in lines.values())


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_shows_everything_that_it_declares(cli: Any, name: str) -> None:
    done = cli("methods", name)
    assert done.exit_code == 0, done.stderr
    method = METHODS.get(name)
    assert all(len(line.rstrip()) <= 80 for line in done.stdout.splitlines()[2:])
    shown = " ".join(done.stdout.split())
    for declared in (*method.parameters, *method.options):
        assert declared.name in shown
        assert " ".join(declared.description.split()) in shown


def test_an_unknown_method_is_answered_with_the_nearest(cli: Any) -> None:
    done = cli("methods", "tyes")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: unknown merge method 'tyes'. Did you mean 'ties'?")


@pytest.fixture
def config(tmp_path: Path, tiny_llama: dict[str, Path]) -> Path:
    return write_config(tmp_path / "tiny.yaml", tiny_llama, write_task(tmp_path / "tasks"))


@pytest.mark.slow
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
