"""Stand-in methods, and models to merge with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from helpers.prepared import METHOD
from helpers.stand_in_methods import METHODS as STAND_INS
from helpers.stand_in_methods import Weighted
from helpers.weighted import merger_of


@pytest.fixture
def stand_ins() -> Iterator[None]:
    Weighted.prepared.clear()
    with METHODS.extended(STAND_INS):
        yield


@pytest.fixture(scope="module")
def llama(tiny_llama: dict[str, Path]) -> Merger:
    return merger_of(tiny_llama)


@pytest.fixture
def noted() -> Iterator[None]:
    with METHODS.extended({"noted": METHOD}):
        yield


@pytest.fixture
def models(tiny_llama: dict[str, Path]) -> list[Path]:
    return list(tiny_llama.values())


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One line for each preparation: process and tensor."""
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setenv("NOTES", str(path))
    return path
