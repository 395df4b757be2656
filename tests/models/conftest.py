"""Model folders that several files here look at. Those that are made once are not to be written to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.testing.models import tiny_checkpoint, tiny_family
from helpers.vocabulary import bpe, with_added, write_model


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies of a folder that a test may spoil."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))

    return copy


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("sharded") / "model", max_shard_size="40KB")


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_family(tmp_path_factory.mktemp("tied"), "llama", tied=True)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "llama", tied=False)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    from helpers.adapters import write_adapter

    return write_adapter(tmp_path_factory.mktemp("adapters") / "plain", llama)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and two experts: `a` and `b` share the tokens x, and each has one and more words of its own."""
    folder = tmp_path_factory.mktemp("vocabularies")
    return {
        "base": write_model(folder / "base", bpe(290), tied=False, rows=304),
        "a": write_model(folder / "a", with_added(bpe(310), "<|x|>", "<|a|>"), seed=1, tied=False),
        "b": write_model(folder / "b", with_added(bpe(290), "<|b|>", "<|x|>"), seed=2, tied=False, rows=320),
    }
