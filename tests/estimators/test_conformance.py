"""Every estimator keeps every law."""

from __future__ import annotations

import pytest

from evomerge.estimators import ESTIMATORS
from evomerge.testing.estimator_laws import LAWS, Law


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_every_estimator_keeps_every_law(name: str, law: Law) -> None:
    law(ESTIMATORS.get(name))
