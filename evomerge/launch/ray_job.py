"""A job on a Ray cluster that is up: `ray job submit` with the experiment's own files and no others of its folder."""

from __future__ import annotations

import json
import os
import shlex
import sys
import uuid
from pathlib import Path
from typing import Any, ClassVar

from evomerge.errors import ConfigError
from evomerge.launch.base import Job, Plan, memory_gib, pairs, require_absolute
from evomerge.launch.upload import UPLOAD, upload_of


class RayJob:
    """The search runs on the cluster's head; submitted again it continues from the run directory."""

    name: ClassVar[str] = "ray-job"
    summary: ClassVar[str] = "a Ray cluster that is up: KubeRay, a cloud, `ray start` by hand"
    options: ClassVar[dict[str, Any]] = {
        "address": None,
        "cpus": None,
        "gpus": None,
        "memory": None,
        "resources": None,
        "submission_id": None,
        "in_place": False,
        "source": None,
        "pip": (),
        "env": (),
        "no_wait": False,
    }

    def plan(self, job: Job) -> Plan:
        """`ray job submit`, with the files that it uploads unless the cluster sees the config itself."""
        options = job.options
        # Without one, Ray would start a cluster of its own here.
        address = os.environ.get("RAY_API_SERVER_ADDRESS") if options["address"] is None else options["address"]
        if not address:
            raise ConfigError(
                "launch: give --address, the cluster's job server, such as http://HEAD:8265, or RAY_API_SERVER_ADDRESS"
            )
        require_absolute(job)
        environment: dict[str, Any] = {}
        if variables := pairs(job):
            environment["env_vars"] = variables
        if options["pip"]:
            environment["pip"] = list(options["pip"])
        if options["source"] is not None:
            environment["py_modules"] = [str(Path(options["source"]).resolve())]
            environment["excludes"] = ["__pycache__/"]
        # A submission's id is used once, so one that is chosen here differs each time.
        submission = options["submission_id"] or f"{job.name}-{uuid.uuid4().hex[:8]}"
        beside = Path(sys.executable).with_name("ray")
        ray = str(beside) if beside.exists() else "ray"
        command = [ray, "job", "submit", "--address", address, "--submission-id", submission]
        command += self._resources(job)
        files: dict[str, str | Path] = {}
        notes: list[str] = []
        search = job.search(str(job.config.resolve()))
        if not options["in_place"]:
            upload = upload_of(job.config)
            files = upload.in_job()
            notes.append(upload.words())
            command += ["--working-dir", str(job.folder / UPLOAD)]
            search = _from_upload(job, upload.config)
        if environment:
            command += ["--runtime-env-json", json.dumps(environment)]
        if options["no_wait"]:
            command.append("--no-wait")
        notes.append(f"Stop it with: {shlex.join([ray, 'job', 'stop', '--address', address, submission])}")
        return Plan(files=files, commands=((*command, "--", *search),), notes=tuple(notes))

    def _resources(self, job: Job) -> list[str]:
        """What the entry point takes of the node that it runs on; its workers ask for their own."""
        options, made = job.options, []
        for key, flag in (("cpus", "--entrypoint-num-cpus"), ("gpus", "--entrypoint-num-gpus")):
            if options[key] is not None:
                made += [flag, str(options[key])]
        if options["memory"] is not None:
            made += ["--entrypoint-memory", str(int(memory_gib(options["memory"]) * 2**30))]
        if options["resources"] is not None:
            try:
                amounts = json.loads(options["resources"])
            except ValueError:
                amounts = None
            if not isinstance(amounts, dict):
                raise ConfigError(f'launch: --resources {options["resources"]!r}: expected JSON such as {{"head": 1}}')
            made += ["--entrypoint-resources", json.dumps(amounts)]
        return made


def _from_upload(job: Job, config: str) -> list[str]:
    """The search on a copy of the upload beside the run directory.

    Ray unpacks an upload elsewhere each time and on the nodes that ask for it; beside the run it is at the same place
    for every node and every later submission.
    """
    place = f"{job.run.rstrip('/')}.experiment"
    words = shlex.join(job.search(f"{place}/{config}"))
    return ["sh", "-c", f"mkdir -p {shlex.quote(place)} && cp -R . {shlex.quote(place)}/ && exec {words}"]
