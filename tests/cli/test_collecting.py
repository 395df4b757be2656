"""Garbage is collected seldom while a command loads modules, and as always after that."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from evomerge import cli
from evomerge.cli.collecting import seldom_while_loading


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    """Thresholds that are Python's, whatever other tests have made of them."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield gc.get_threshold()
    gc.set_threshold(*before)


def test_it_is_as_always_once_nothing_is_loaded_any_more(
    usual: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = [*gc.callbacks]
    with seldom_while_loading():
        for name in ("loaded_first", "loaded_then"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
            gc.collect()
            assert gc.get_threshold() == (50_000, *usual[1:])
        gc.collect()
        assert (gc.get_threshold(), gc.callbacks) == (usual, callbacks)


def test_it_is_as_always_after_a_command_that_ends_early(usual: tuple[int, int, int]) -> None:
    callbacks = [*gc.callbacks]
    with pytest.raises(ZeroDivisionError), seldom_while_loading():
        gc.set_threshold(gc.get_threshold()[0] // 0)
    assert (gc.get_threshold(), gc.callbacks) == (usual, callbacks)


@pytest.mark.parametrize("told", [(0, 10, 10), (90_000, 10, 10)])
def test_who_collects_more_seldom_still_is_left_alone(told: tuple[int, int, int]) -> None:
    gc.set_threshold(*told)
    with seldom_while_loading():
        assert gc.get_threshold() == told
    assert gc.get_threshold() == told


def test_commands_run_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(sys, "argv", ["evomerge", "schema"])
    monkeypatch.setattr(cli, "app", lambda **options: seen.append(gc.get_threshold()[0]))
    cli.main()
    assert seen == [50_000]
