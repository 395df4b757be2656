"""Every registered method keeps every law of merge methods."""

from __future__ import annotations

import pytest

from evomerge.methods import METHODS
from evomerge.testing.method_laws import LAWS, Law, ignores_experts_that_equal_the_base


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_keeps_every_law(name: str, law: Law) -> None:
    method = METHODS.get(name)
    assert method.name == name
    law(method)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in METHODS.names()
        if METHODS.get(name).base == "required"
        and METHODS.get(name).parameters
        and not METHODS.get(name).adds_task_vectors
    ],
)
def test_other_methods_depend_on_experts_that_equal_the_base(name: str) -> None:
    claiming = type("Claiming", (METHODS.get(name),), {"adds_task_vectors": True})
    with pytest.raises(AssertionError):
        ignores_experts_that_equal_the_base(claiming)
