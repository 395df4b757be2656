"""`evomerge init --from-analysis`: a starter config that begins with what the weights say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.testing.models import tiny_family

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("layers", [2, 6])
def test_the_config_has_the_models_and_is_complete_but_for_tasks(cli: Any, tmp_path: Path, layers: int) -> None:
    folders = tiny_family(tmp_path / "models", layers=layers)
    assert cli("analyse", *folders.values(), "--json", tmp_path / "a.json", "--spectra", "none").exit_code == 0
    out = tmp_path / "made.yaml"
    done = cli("init", out, "--from-analysis", tmp_path / "a.json")
    assert (done.exit_code, done.stdout) == (0, f"Wrote {out}. Fill in tasks, then: evomerge check {out}\n")
    config = Config.from_file(out)
    assert config.models.base.path == str(folders["base"])
    assert list(config.models.experts) == ["a", "b"]
    assert config.space.blocks == min(4, layers)
    assert not config.space.steps
    assert out.read_text().count("\n  #   weight.") == 2 * config.space.blocks
    start = config.space.parameters["weight"].start
    assert isinstance(start, dict)
    assert start.keys() == {"a", "b"}
    assert "# Where the change is, by squared length: layer" in out.read_text()


def test_both_origins_at_once_and_other_files_are_refused(cli: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    done = cli("init", tmp_path / "x.yaml", "--from-analysis", other)
    assert done.exit_code == 1
    assert "is no analysis of this release" in done.stderr
    assert not (tmp_path / "x.yaml").exists()
    assert "not both" in cli("init", tmp_path / "x.yaml", "--from", other, "--from-analysis", other).stderr
