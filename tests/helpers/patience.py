"""How long to wait, and to have Ray wait, for clusters on a busy machine. Imports no Ray."""

from __future__ import annotations

import sys
from pathlib import Path

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
