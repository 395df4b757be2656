"""Ray's own cluster launcher: `ray up` on machines that are there or on AWS, and the search on its head."""

from __future__ import annotations

import shlex
from typing import Any, ClassVar

from evomerge.errors import ConfigError
from evomerge.launch.base import Job, Plan, gpus_of_node, require, require_absolute, workers_notes
from evomerge.launch.documents import dumped
from evomerge.launch.upload import UPLOAD, upload_of

CLUSTER = "ray-cluster.yaml"


class RayCluster:
    """Machines set up by Ray's launcher over SSH; the search runs on the head, in a session that outlives the link."""

    name: ClassVar[str] = "ray-cluster"
    summary: ClassVar[str] = "machines over SSH or on AWS, set up by Ray's own launcher"
    options: ClassVar[dict[str, Any]] = {
        "hosts": None,
        "user": "ubuntu",
        "key": None,
        "region": None,
        "instance": None,
        "nodes": 1,
        "gpus": None,
        "cpus": None,
        "image": None,
        "setup": "pip install 'evomerge[cluster]'",
    }

    def plan(self, job: Job) -> Plan:
        """A cluster file with the experiment's files, `ray up` and `ray exec`."""
        require_absolute(job)
        upload = upload_of(job.config)
        place = job.place
        on_hosts = job.options["hosts"] is not None
        data: dict[str, Any] = {"cluster_name": job.name, **(_hosts(job) if on_hosts else _aws(job))}
        data["file_mounts"] = {place: str(job.folder / UPLOAD)}
        data["setup_commands"] = [job.options["setup"]] if job.options["setup"] else []
        if job.options["image"] is not None:
            data["docker"] = {"image": job.options["image"], "container_name": job.name}
        files = upload.in_job()
        files[CLUSTER] = dumped(data)
        cluster = str(job.folder / CLUSTER)
        search = "RAY_ADDRESS=auto " + shlex.join(job.search(f"{place}/{upload.config}"))
        notes = [*workers_notes(job), upload.words()]
        notes.append("RUN must be on storage that outlives the head; the last command again continues the search.")
        notes.append(f"Look at it with: {shlex.join(['ray', 'attach', '--tmux', cluster])}")
        notes.append(f"End the machines with: {shlex.join(['ray', 'down', cluster])}")
        return Plan(
            files=files,
            commands=(("ray", "up", "--yes", cluster), ("ray", "exec", "--tmux", cluster, search)),
            notes=tuple(notes),
        )


def _auth(job: Job) -> dict[str, Any]:
    key = job.options["key"]
    return {"ssh_user": job.options["user"], **({"ssh_private_key": key} if key is not None else {})}


def _hosts(job: Job) -> dict[str, Any]:
    """Machines that are there; the first is the head."""
    head, *others = [host.strip() for host in job.options["hosts"].split(",") if host.strip()] or [""]
    if not head:
        raise ConfigError("launch: --hosts: expected host names or addresses with commas between, the head's first")
    provider = {"type": "local", "head_ip": head, "worker_ips": others}
    # The number of machines is that of the hosts.
    return {"provider": provider, "auth": _auth(job), "max_workers": len(others)}


def _aws(job: Job) -> dict[str, Any]:
    """Machines of AWS, of one kind."""
    region = require(job, "region", "a region of AWS, such as us-west-2, or --hosts for machines that are there")
    instance = require(job, "instance", "a kind of machine, such as g5.12xlarge")
    workers = int(job.options["nodes"]) - 1
    resources = {"CPU": job.options["cpus"]} if job.options["cpus"] is not None else {}
    resources |= {"GPU": gpus_of_node(job)} if job.options["gpus"] is not None else {}
    kind = {"resources": resources, "node_config": {"InstanceType": instance}}
    return {
        "provider": {"type": "aws", "region": region},
        "auth": _auth(job),
        "max_workers": workers,
        "head_node_type": "head",
        "available_node_types": {
            "head": kind,
            "worker": {**kind, "min_workers": workers, "max_workers": workers},
        },
    }
