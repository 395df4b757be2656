"""The cluster's head: whether it can be reached.

Ray itself ends a process whose head is gone, with status 1 and without a word for people, and what asks the head
something doesn't return until then. So the head is knocked at meanwhile, and the search ends first and leaves Ray.
Knows no Ray.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Thread
from typing import TypeVar

from evomerge.errors import LostClusterError

_log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

_KNOCK_TIMEOUT_S = 5.0
LOOK_EVERY_S = 5.0
"""How often the head is looked at while workers are at work."""
AGAIN_S = 0.5
"""How long to wait before a head that is gone is asked again."""
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""With which every gRPC client begins: HTTP/2's preface and empty settings (RFC 9113, 3.4)."""


def knock(address: str, timeout_s: float) -> None:
    """Greet "host:port" as a gRPC client does, and hang up when it reacts.

    For a process that hangs, its machine goes on taking connections, but nobody reads or ends them.

    Raises: OSError if nobody reacts in that time.
    """
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
    # Whoever hangs up is alive, too: one that speaks TLS only, for instance.
    with connection as door, suppress(ConnectionError):
        door.sendall(_GREETING)
        door.recv(1)


class Head:
    """The head of a cluster, at whose door we knock.

    Args:
        address: "host:port".
        patience_s: for how long it may be gone.
        besides: what else to say where it is gone.
    """

    def __init__(self, address: str, patience_s: float, besides: str = "") -> None:
        self.address = address
        self.owes_answer = False
        """Whether a call waits for it."""
        self._patience_s = patience_s
        self._besides = besides
        self._seen = time.monotonic()

    def answers(self) -> bool:
        """Whether it can be reached now."""
        try:
            knock(self.address, _KNOCK_TIMEOUT_S)
        except OSError:
            return False
        self._seen = time.monotonic()
        return True

    def ask(self, question: Callable[[], _Answer]) -> _Answer:
        """What a call returns that needs the head.

        Raises: what the call raises; LostClusterError if the head is gone for too long.
        """
        self.wait()
        # The head may go right now, and then the call doesn't return.
        answer: Future[_Answer] = Future()

        def find() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        Thread(target=find, daemon=True).start()
        self.owes_answer = True
        while not wait([answer], AGAIN_S).done:
            self.look()
        self.owes_answer = False
        return answer.result()

    def look(self) -> None:
        """As `wait`, if it wasn't seen for some seconds."""
        if time.monotonic() - self._seen >= LOOK_EVERY_S:
            self.wait()

    def wait(self) -> None:
        """Return as soon as it answers. Raises: LostClusterError if it is gone for too long."""
        if self.answers():
            return
        _log.warning("Ray's head at %s doesn't answer; waiting %g s for it", self.address, self._patience_s)
        # From now on: the time before may have passed in calls that don't look at the head.
        end = time.monotonic() + self._patience_s
        while time.monotonic() < end:
            time.sleep(AGAIN_S)
            if self.answers():
                _log.warning("Ray's head answers again")
                return
        raise LostClusterError(
            f"Ray's head at {self.address} hasn't answered for {self._patience_s:g} s: it hangs, or its process, "
            f"machine or network is gone{self._besides}"
        )
