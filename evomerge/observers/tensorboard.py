"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import MissingPackageError
from evomerge.observers.base import Ended, Story, optional_text

FOLDER = "tensorboard"


class TensorBoard:
    """Writes event files to RUN/tensorboard, or to the folder given and the run's name in it."""

    takes_points = True

    def __init__(self, setting: Any) -> None:
        self._folder = optional_text("tensorboard", setting, "a folder")
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingPackageError(
                "observe: tensorboard needs the package tensorboard; install it: pip install 'evomerge[tensorboard]'"
            ) from error
        self._make = SummaryWriter

    def begin(self, story: Story) -> None:
        """Open an event file of this session's own."""
        folder = story.directory / FOLDER if self._folder is None else f"{self._folder}/{story.name}"
        self._writer = self._make(log_dir=str(folder))
        rows = [f"| {name} | {value} |" for name, value in story.settings.items()]
        self._writer.add_text("run", "\n".join(["| | |", "|---|---|", *rows]))

    def point(self, trial: int, values: Mapping[str, float]) -> None:
        """Write numbers at the trial's number as the step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, trial)
        # A process that is killed leaves what it was told.
        self._writer.flush()

    def end(self, ended: Ended) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.add_text("outcome", ended.text)
            self._writer.close()
