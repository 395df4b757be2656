"""How long to wait, and to have Ray wait, for clusters on a busy machine. Imports no Ray."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.execute.ray.patience import MINUTES

RAY = (sys.executable, "-P", str(Path(__file__).with_name("ray_command.py")))
"""The command `ray` for a busy machine."""
LONG_S = 300.0
"""Seconds within which whatever is awaited comes to be, also there."""
UNHURRIED = {
    **MINUTES,
    "RAY_ADDRESS": "",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
}
"""Variables of a process that starts clusters on a busy machine."""


def until(condition: Callable[[], Any]) -> Any:
    """What the condition comes to as soon as it is true."""
    end = time.monotonic() + LONG_S
    while not (found := condition()):
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)
    return found
