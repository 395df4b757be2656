"""Where what takes long to make is kept for all of a user's runs and installations."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """A folder in the user's cache, which may not exist yet. Raises: RuntimeError if there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "evomerge"
