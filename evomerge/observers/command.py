"""A command of the shell that runs when a run is done or has failed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from evomerge.errors import ExecutionError
from evomerge.observers.base import Ended, Story, needed_text

_TIMEOUT_S = 50.0


class Command:
    """Gets the keys of `Ended` as JSON on standard input, and as variables: EVOMERGE_RUN, EVOMERGE_STATE and so on."""

    takes_points = False

    def __init__(self, setting: Any) -> None:
        self._command = needed_text("command", setting, "a command of the shell")

    def begin(self, story: Story) -> None:
        """Nothing to tell."""

    def point(self, trial: int, values: Mapping[str, float]) -> None:
        """Nothing to tell."""

    def end(self, ended: Ended) -> None:
        """Run it, unless somebody stopped the search. Raises: ExecutionError if it fails or takes too long."""
        if ended.state == "stopped":
            return
        data = ended.to_data()
        told = {f"EVOMERGE_{key.upper()}": "" if value is None else str(value) for key, value in data.items()}
        try:
            done = subprocess.run(
                self._command,
                shell=True,
                input=json.dumps(data),
                text=True,
                capture_output=True,
                env={**os.environ, **told},
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ExecutionError(f"took longer than {_TIMEOUT_S:.0f} s and was stopped") from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
            raise ExecutionError(f"ended with status {done.returncode}" + (f": {said}" if said else ""))
