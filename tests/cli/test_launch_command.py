"""`evomerge launch`: what it writes, says and runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.testing
import yaml

from evomerge.cli import app

RECORD = '#!/bin/bash\nprintf "%s\\n" "$@" >"$(dirname "$0")/record"\nexit "$STATUS"\n'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    models = {"base": "owner/base", "experts": {"one": "owner/one"}}
    path = tmp_path / "my search.yaml"
    path.write_text(yaml.safe_dump({"models": models, "benchmark": {"tasks": ["one"]}}))
    return path


def launched(*arguments: object) -> tuple[int, str]:
    done = typer.testing.CliRunner().invoke(app, ["launch", *map(str, arguments)])
    return done.exit_code, done.output


def test_a_dry_run_writes_the_files_and_says_the_command_that_is_run_otherwise(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(RECORD)
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("STATUS", "0")
    script = tmp_path / "launch-one" / "slurm.sbatch"
    words = [str(script), str(config), str(tmp_path / "runs" / "one")]
    code, said = launched("slurm", config, "runs/one", "--gpus", 8, "--nodes", 4, "--dry-run")
    assert (code, script.exists(), (programs / "record").exists()) == (0, True, False), said
    assert f"To run: sbatch {script} '{config}'" in said
    code, said = launched("slurm", config, "runs/one", "--gpus", 8)
    assert code == 0, said
    assert (programs / "record").read_text().splitlines() == words
    assert "#SBATCH --nodes=1\n" in script.read_text()
    monkeypatch.setenv("STATUS", "3")
    code, said = launched("slurm", config, "runs/one")
    assert code == 1
    assert "sbatch ended with status 3" in said


def test_a_target_or_option_that_is_not_there_is_named_with_those_that_are(config: Path) -> None:
    code, said = launched("slrum", config, "/runs/one")
    assert code == 1
    assert "Did you mean 'slurm'?" in said
    code, said = launched("slurm", config, "/runs/one", "--volume", "a:/b")
    assert code == 1
    assert "launch slurm: unknown option '--volume'" in said


def test_a_command_that_is_not_installed_here_is_said_after_the_files_are_written(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said = launched("kuberay", config, "/shared/one", "--image", "i", "--volume", "runs:/shared")
    assert code == 1
    assert "there is no command 'kubectl' here" in said
    assert (tmp_path / "launch-one" / "rayjob.yaml").exists()
