"""Every registered method keeps every law of merge methods."""

from __future__ import annotations

import pytest

from evomerge.methods import METHODS
from evomerge.testing.method_laws import LAWS, Law


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_keeps_every_law(name: str, law: Law) -> None:
    method = METHODS.get(name)
    assert method.name == name
    law(method)
