"""An executor as another package would bring one."""

from __future__ import annotations

from evomerge.execute.inline import InlineExecutor


class Theirs(InlineExecutor):
    """Works in this process, and is chosen by its own name alone."""
