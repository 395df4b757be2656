"""A Ray of one's own may come up slowly."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import ray

from evomerge.execute.ray.private import starts_in


class Heads:
    """Heads that hear of a machine when they have been asked for it so many times."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    def get_node(self, address: str, node: str) -> dict[str, str]:
        self.left -= 1
        if self.left >= 0:
            raise RuntimeError("This node isn't there.")
        return {"address": address, "node": node}


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> Heads:
    heads = Heads(asked=3)
    monkeypatch.setattr(ray._private.services, "get_node", heads.get_node)
    return heads


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What was slept, in place of sleeping."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    yield slept
    monkeypatch.undo()


def test_a_machine_that_the_head_has_not_heard_of_is_asked_for_again(heads: Heads, clock: list[float]) -> None:
    with starts_in(60):
        node = ray._private.services.get_node("here:1", node="a")
    assert node == {"address": "here:1", "node": "a"}
    assert len(clock) == 3


def test_a_machine_that_never_comes_up_is_given_up(heads: Heads, clock: list[float]) -> None:
    heads.left = 10**6
    with pytest.raises(RuntimeError, match="isn't there"), starts_in(60):
        ray._private.services.get_node("here:1", "a")
    assert sum(clock) == pytest.approx(60, abs=1)


def test_ray_asks_as_before_afterwards(heads: Heads) -> None:
    with starts_in(60):
        assert ray._private.services.get_node != heads.get_node
    assert ray._private.services.get_node == heads.get_node


@pytest.mark.parametrize("lacking", ["services", "services.get_node"])
def test_a_ray_that_has_no_such_interface_starts_as_it_does(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    monkeypatch.delattr(f"ray._private.{lacking}")
    with starts_in(60):
        assert not hasattr(getattr(ray._private, "services", None), "get_node")


def test_this_ray_asks_for_the_machines_that_it_starts_by_that_interface() -> None:
    from ray._private.node import Node

    assert {"services", "get_node"} <= set(Node.__init__.__code__.co_names)
