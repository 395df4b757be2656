"""How long to wait for what comes up, and for what Ray waits for itself. Knows no Ray."""

from __future__ import annotations

import os

START_S = 300
"""Seconds in which a Ray of one's own, and each of its workers, may come up, on a busy machine or a slow disk, too."""
HEAD = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's variable for how long a head may be gone."""
WORKER = "RAY_worker_register_timeout_seconds"
"""Ray's variable for how long a worker may take to come up."""
_RAYS_OWN_S = 60
"""What Ray takes for both unless told otherwise."""


def half_of(variable: str) -> float:
    """Half of the seconds that Ray gives something, by one of its variables: whoever waits can go on before it ends."""
    return float(os.environ.get(variable) or _RAYS_OWN_S) / 2
