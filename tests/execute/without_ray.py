"""Run by a test in a process of its own: the command line, where Ray isn't installed."""

from __future__ import annotations

import runpy
import sys

assert "ray" not in sys.modules
sys.modules["ray"] = None  # type: ignore[assignment]
runpy.run_module("evomerge", run_name="__main__", alter_sys=True)
