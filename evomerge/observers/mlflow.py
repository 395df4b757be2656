"""MLflow: one run of an experiment, on the server or in the database that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evomerge.errors import MissingPackageError
from evomerge.observers.base import Ended, Story, optional_text

_STUDY = "evomerge.study"
_STATES = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MLflow:
    """Logs to the experiment given, "evomerge" if none is; a later session goes on in the same run of it."""

    takes_points = True

    def __init__(self, setting: Any) -> None:
        self._experiment = optional_text("mlflow", setting, "the name of an experiment") or "evomerge"
        self._client: Any = None
        self._run = ""
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingPackageError(
                "observe: mlflow needs the package mlflow; install it: pip install 'evomerge[mlflow]'"
            ) from error
        self._make = MlflowClient

    def begin(self, story: Story) -> None:
        """Find this run by its study, or make it."""
        client = self._make()
        found = client.get_experiment_by_name(self._experiment)
        experiment = client.create_experiment(self._experiment) if found is None else found.experiment_id
        earlier = client.search_runs([experiment], f"tags.`{_STUDY}` = '{story.study}'", max_results=1)
        if earlier:
            self._run = earlier[0].info.run_id
            client.update_run(self._run, status="RUNNING")
        else:
            made = client.create_run(experiment, run_name=story.name, tags={_STUDY: story.study})
            self._run = made.info.run_id
            for name, value in story.settings.items():
                client.log_param(self._run, name, value)
        self._client = client

    def point(self, trial: int, values: Mapping[str, float]) -> None:
        """Log numbers at the trial's number as the step."""
        for name, value in values.items():
            self._client.log_metric(self._run, re.sub(r"[^\w./: -]", "_", name), value, step=trial)

    def end(self, ended: Ended) -> None:
        """Say how it ended."""
        if self._client is not None:
            self._client.set_tag(self._run, "evomerge.outcome", ended.text)
            self._client.set_terminated(self._run, _STATES[ended.state])
