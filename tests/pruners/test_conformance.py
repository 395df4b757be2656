"""Every pruner keeps every law of its form."""

from __future__ import annotations

import pytest

from evomerge.pruners import PRUNERS
from evomerge.testing import generation_pruner_laws, pruner_laws

_OF_GENERATIONS = [name for name in PRUNERS.names() if hasattr(PRUNERS.get(name), "survivors")]
_OF_CANDIDATES = [name for name in PRUNERS.names() if name not in _OF_GENERATIONS]


@pytest.mark.parametrize("law", pruner_laws.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", _OF_CANDIDATES)
def test_every_pruner_of_candidates_keeps_every_law(name: str, law: pruner_laws.Law) -> None:
    law(PRUNERS.get(name))  # type: ignore[arg-type]


@pytest.mark.parametrize("law", generation_pruner_laws.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", _OF_GENERATIONS)
def test_every_pruner_of_generations_keeps_every_law(name: str, law: generation_pruner_laws.Law) -> None:
    law(PRUNERS.get(name))  # type: ignore[arg-type]
