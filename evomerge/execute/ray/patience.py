"""How long to wait for what comes up, and for what Ray waits for itself. Knows no Ray."""

from __future__ import annotations

import os

HEAD = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's variable for how long a head may be gone."""
WORKER = "RAY_worker_register_timeout_seconds"
"""Ray's variable for how long a worker may take to come up."""
MINUTES = {"RAY_agent_register_timeout_ms": "300000", "RAY_gcs_server_port_wait_time_s": "300", WORKER: "300"}
"""Variables that give what Ray starts five minutes to come up; its own choices are one at most."""
_RAYS_OWN_S = 60
"""What Ray takes for both unless told otherwise."""


def half_of(variable: str) -> float:
    """Half of the seconds that Ray gives something, by one of its variables: whoever waits can go on before it ends."""
    return float(os.environ.get(variable) or _RAYS_OWN_S) / 2
