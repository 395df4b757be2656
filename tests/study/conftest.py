"""A small experiment and its undisturbed runs, which the tests of the search compare with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.algorithms import PROPOSERS
from evomerge.config.config import Config
from evomerge.study.search import search
from helpers.first_merges import write_recipe
from helpers.search import changed, write_config, write_task
from helpers.several import AROUND


@pytest.fixture(scope="module")
def around() -> Iterator[None]:
    """The algorithm for any number of objectives is registered."""
    with PROPOSERS.extended(AROUND):
        yield


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path], tasks: Path) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "tiny.yaml", tiny_llama, tasks)


@pytest.fixture(scope="session")
def config(config_file: Path) -> Config:
    return Config.from_file(config_file)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "undisturbed"
    search(config, directory)
    return directory


@pytest.fixture(scope="session")
def in_blocks(config: Config) -> Config:
    return changed(config, search={"block": 5})


@pytest.fixture(scope="session")
def undisturbed_in_blocks(tmp_path_factory: pytest.TempPathFactory, in_blocks: Config) -> Path:
    directory = tmp_path_factory.mktemp("blocks") / "run"
    search(in_blocks, directory)
    return directory


@pytest.fixture
def models(tmp_path: Path, tiny_llama: dict[str, Path]) -> dict[str, Path]:
    """A copy of the family, which may be written into."""
    return {name: Path(shutil.copytree(folder, tmp_path / "models" / name)) for name, folder in tiny_llama.items()}


@pytest.fixture
def recipe(tmp_path: Path, models: dict[str, Path]) -> Path:
    """A merge of both experts, mergekit's kind of file."""
    return write_recipe(tmp_path / "both.yaml", models["a"], models["b"])
