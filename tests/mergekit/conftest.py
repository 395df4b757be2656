"""Models that merge files of mergekit are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.testing.models import tiny_family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny Llama family of four layers: a base and three experts. Don't write into them."""
    return tiny_family(tmp_path_factory.mktemp("family"), "llama", ("a", "b", "c"), layers=4)
