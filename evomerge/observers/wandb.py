"""Weights & Biases: one run of a project, offline where WANDB_MODE says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evomerge.errors import MissingPackageError
from evomerge.observers.base import Ended, Story, optional_text


class WandB:
    """Logs to the project given, "evomerge" if none is; a later session goes on in the same run of it."""

    takes_points = True

    def __init__(self, setting: Any) -> None:
        self._project = optional_text("wandb", setting, "the name of a project") or "evomerge"
        self._run: Any = None
        try:
            import wandb
        except ImportError as error:
            raise MissingPackageError(
                "observe: wandb needs the package wandb; install it: pip install 'evomerge[wandb]'"
            ) from error
        self._wandb = wandb

    def begin(self, story: Story) -> None:
        """Begin the run, or go on with it."""
        self._run = self._wandb.init(
            project=self._project,
            id=re.sub(r"\W", "-", story.study),
            name=story.name,
            resume="allow",
            dir=str(story.directory),
            config=dict(story.settings),
            settings=self._wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("trial")
        self._run.define_metric("*", step_metric="trial")

    def point(self, trial: int, values: Mapping[str, float]) -> None:
        """Log numbers over the trial's number."""
        self._run.log({"trial": trial, **values})

    def end(self, ended: Ended) -> None:
        """Say how it ended, and wait until all is sent."""
        if self._run is not None:
            self._run.summary["outcome"] = ended.text
            self._run.finish(exit_code=0 if ended.state == "done" else 1)
