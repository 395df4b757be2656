"""SkyPilot: a task of several nodes on a cloud, with a Ray of its own beside the one that SkyPilot may run there."""

from __future__ import annotations

import re
import shlex
from typing import Any, ClassVar

from evomerge.errors import ConfigError
from evomerge.files.outside import read_text
from evomerge.files.shipped import shipped
from evomerge.launch.base import (
    Job,
    Plan,
    memory_gib,
    pairs,
    require_absolute,
    volume_of,
    workers_notes,
)
from evomerge.launch.documents import dumped
from evomerge.launch.upload import UPLOAD, upload_of

TASK = "skypilot.yaml"
SCRIPT = "skypilot.sh"

_ACCELERATORS = re.compile(r"[\w.-]+(:\d+)?")


class SkyPilot:
    """A managed job: SkyPilot finds machines, others when they are taken away, and the run continues there."""

    name: ClassVar[str] = "skypilot"
    summary: ClassVar[str] = "a managed job on any cloud; recovers from preemption and continues"
    options: ClassVar[dict[str, Any]] = {
        "nodes": 1,
        "gpus": None,
        "cpus": None,
        "memory": None,
        "image": None,
        "volume": None,
        "setup": "pip install 'evomerge[cluster]'",
        "spot": False,
        "env": (),
    }

    def plan(self, job: Job) -> Plan:
        """A task file with the experiment's files, and `sky jobs launch`."""
        options = job.options
        require_absolute(job)
        volume = volume_of(job)
        gpus = options["gpus"]
        if gpus is not None and (not _ACCELERATORS.fullmatch(str(gpus)) or str(gpus).isdecimal()):
            raise ConfigError(f"launch: --gpus {gpus!r}: SkyPilot wants a kind and how many, such as A100-80GB:8")
        resources: dict[str, Any] = {"job_recovery": {"max_restarts_on_errors": 3}}
        if gpus is not None:
            resources["accelerators"] = str(gpus)
        if options["cpus"] is not None:
            resources["cpus"] = f"{options['cpus']}+"
        if options["memory"] is not None:
            resources["memory"] = f"{memory_gib(options['memory']):g}+"
        if options["image"] is not None:
            resources["image_id"] = f"docker:{options['image']}"
        if options["spot"]:
            resources["use_spot"] = True
        upload = upload_of(job.config)
        place = job.place
        script = read_text(shipped("launch") / SCRIPT, ConfigError).partition("\n")[2]
        task: dict[str, Any] = {
            "name": job.name,
            "num_nodes": int(options["nodes"]),
            "resources": resources,
            "file_mounts": {place: str(job.folder / UPLOAD)},
            **({} if volume is None else {"volumes": {volume[1]: volume[0]}}),
            "envs": pairs(job),
            "setup": options["setup"],
            "run": f"set -- {shlex.join(job.search(f'{place}/{upload.config}'))}\n{script}",
        }
        files = upload.in_job()
        files[TASK] = dumped(task)
        notes = [*workers_notes(job), upload.words()]
        launch = ("sky", "jobs", "launch", "--yes", "--name", job.name, str(job.folder / TASK))
        return Plan(files=files, commands=(launch,), notes=tuple(notes))
