"""How long to wait, and to have Ray wait, for clusters on a busy machine. Imports no Ray."""

from __future__ import annotations

from evomerge.execute.ray.patience import START_S, WORKER

LONG_S = 200.0
"""Seconds within which whatever is awaited comes to be, also there."""
UNHURRIED = {
    "RAY_ADDRESS": "",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_gcs_server_port_wait_time_s": str(START_S),
    "RAY_worker_niceness": "0",
    WORKER: str(START_S),
}
"""Variables of a process that starts clusters on a busy machine."""
