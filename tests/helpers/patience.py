"""How long to wait, and to have Ray wait, for clusters on a busy machine. Imports no Ray."""

from __future__ import annotations

LONG_S = 200.0
"""Seconds within which whatever is awaited comes to be, also there."""
UNHURRIED = {
    "RAY_ADDRESS": "",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_niceness": "0",
    "RAY_worker_register_timeout_seconds": "300",
}
"""Variables of a process that starts clusters on a busy machine."""
