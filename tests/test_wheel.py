"""What comes with an installation by pip: experiments and launchers' scripts beside the code."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.testing

from evomerge.cli import app
from evomerge.config.config import Config
from evomerge.demo.build import Settings, experiment_of
from evomerge.files import shipped

ROOT = Path(__file__).resolve().parents[1]


def test_a_wheel_holds_the_experiments_and_the_launchers_scripts_where_the_package_looks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    held = {file.distribution_path: file.path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()}
    for folder in ("configs", "launch"):
        for path in (ROOT / folder).iterdir():
            assert held[f"evomerge/shipped/{folder}/{path.name}"] == str(path)
    assert "evomerge/cli/starter.yaml" in held
    assert shipped.shipped("configs") == ROOT / "configs", "a checkout has them beside the package"
    (tmp_path / "evomerge" / "shipped" / "configs").mkdir(parents=True)
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "evomerge")
    assert shipped.shipped("configs") == tmp_path / "evomerge" / "shipped" / "configs"


def test_configs_lists_the_experiments_and_copies_one_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = typer.testing.CliRunner()
    said = runner.invoke(app, ["configs"]).output
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.stem in said
    assert max(map(len, said.splitlines())) <= 80
    assert runner.invoke(app, ["configs", "swahili", "mine.yaml"]).exit_code == 0
    assert Config.from_file(tmp_path / "mine.yaml") == Config.from_file(ROOT / "configs" / "swahili.yaml")
    assert runner.invoke(app, ["configs", "demo"]).exit_code == 0
    made = tmp_path / "demo" / "config.yaml"
    for folder in ("base", "experts/arithmetic", "experts/swahili", "tasks"):
        (made.parent / folder).mkdir(parents=True)
    made.write_text(experiment_of(Settings(), seed=1))
    copied, own = Config.from_file(tmp_path / "demo.yaml"), Config.from_file(made)
    assert [Path(path) for path in copied.benchmark.include_path] == [tmp_path / "demo" / "tasks"]
    assert copied.models == own.models, "where evomerge demo makes them"
    again = runner.invoke(app, ["configs", "swahili", "mine.yaml"])
    assert again.exit_code == 1
    assert "exists already" in again.output
    assert "Did you mean 'swahili'?" in runner.invoke(app, ["configs", "swahilli"]).output
