"""Laws of search algorithms to parametrise tests with."""

from __future__ import annotations

import pytest

from evomerge.testing.algorithm_laws import LAWS, asks_the_same_in_any_process, finds_more_than_random_search

_SLOW = {asks_the_same_in_any_process, finds_more_than_random_search}
EVERY_LAW = [pytest.param(law, id=law.__name__, marks=pytest.mark.slow if law in _SLOW else ()) for law in LAWS]
"""Slow are those that start processes, or search several times over."""
