"""Every pruner keeps every law."""

from __future__ import annotations

import pytest

from evomerge.pruners import PRUNERS
from evomerge.testing.pruner_laws import LAWS, Law


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", PRUNERS.names())
def test_every_pruner_keeps_every_law(name: str, law: Law) -> None:
    law(PRUNERS.get(name))
