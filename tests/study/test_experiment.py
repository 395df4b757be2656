"""A config with its models' headers: what can't be used is refused with the file and the key that ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import CheckpointError, RunError
from evomerge.study.experiment import open_experiment
from evomerge.study.search import search
from evomerge.testing.models import tiny_family
from helpers.search import changed


def test_a_model_that_is_not_there_is_named_by_its_key(config: Config) -> None:
    base = changed(config, models={"base": "/none/such"})
    with pytest.raises(CheckpointError, match=r"^my\.yaml: models\.base: /none/such: no such folder; give a model"):
        open_experiment(base, where="my.yaml")
    experts = changed(config, models={"experts": {"a": "/none/such"}})
    with pytest.raises(CheckpointError, match=r"^my\.yaml: models\.experts\.a: /none/such: no such folder"):
        open_experiment(experts, where="my.yaml")


def test_models_that_do_not_fit_are_named_with_the_file(config: Config, tmp_path: Path) -> None:
    other = tiny_family(tmp_path, "llama", layers=3)["a"]
    unlike = changed(config, models={"experts": {"a": str(other)}})
    with pytest.raises(CheckpointError, match=r"^my\.yaml: (.|\n)*expert 'a'"):
        open_experiment(unlike, where="my.yaml")


def test_a_folder_of_something_else_is_refused_first_and_left_as_it_was(config: Config, tmp_path: Path) -> None:
    """What takes long, such as the benchmark, comes after."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"holds thesis\.tex and no run; choose a new or an empty directory"):
        search(changed(config, models={"base": "/none/such"}), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
