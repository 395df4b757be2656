"""KubeRay: a RayJob that makes a cluster of pods, runs the search on its head and tries again after a failure."""

from __future__ import annotations

import base64
import shlex
from importlib.metadata import version
from typing import Any, ClassVar

from evomerge.errors import ConfigError
from evomerge.launch.base import (
    Job,
    Plan,
    gpus_of_node,
    memory_gib,
    pairs,
    require,
    require_absolute,
    volume_of,
    workers_notes,
)
from evomerge.launch.documents import dumped
from evomerge.launch.upload import upload_of

MANIFEST = "rayjob.yaml"
PLACE = "/etc/evomerge"
"""Where pods see the experiment's files."""

_GROUP = 1000
"""Whose volumes are, beside their owner's; that of launch/Dockerfile."""

_MOST_BYTES = 1_000_000
"""Of a ConfigMap; Kubernetes takes 1 MiB with everything around it."""


class KubeRay:
    """A RayJob; each attempt has a new cluster and continues from the run directory on a volume."""

    name: ClassVar[str] = "kuberay"
    summary: ClassVar[str] = "a RayJob on Kubernetes; each attempt makes a cluster and continues"
    options: ClassVar[dict[str, Any]] = {
        "image": None,
        "volume": None,
        "nodes": 1,
        "gpus": None,
        "cpus": 8,
        "memory": "64G",
        "namespace": None,
        "retries": 10,
        "env": (),
    }

    def plan(self, job: Job) -> Plan:
        """A manifest with the experiment's files and the job, and `kubectl apply`."""
        require(job, "image", "an image with evomerge and Ray, such as one made from launch/Dockerfile")
        require_absolute(job)
        upload = upload_of(job.config)
        if upload.size_bytes > _MOST_BYTES:
            raise ConfigError(
                f"{job.config}: the config with its tasks is {upload.size_bytes / 1e6:.1f} MB, and Kubernetes keeps at "
                "most 1 MB in a manifest; put the data on storage that the pods see and name it by an absolute path"
            )
        metadata = {"name": job.name, **_if(namespace=job.options["namespace"])}
        keys = {f"file{number}": name for number, name in enumerate(upload.files)}
        files = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            **_contents({key: upload.files[name].read_bytes() for key, name in keys.items()}),
        }
        ray_job = {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": metadata,
            "spec": {
                "entrypoint": shlex.join(job.search(f"{PLACE}/{upload.config}")),
                "submissionMode": "K8sJobMode",
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": 60,
                "backoffLimit": int(job.options["retries"]),
                "rayClusterSpec": _cluster(job, keys),
            },
        }
        text = dumped(files, ray_job)
        place = ["-n", job.options["namespace"]] if job.options["namespace"] else []
        notes = [
            *workers_notes(job),
            upload.words(),
            f"Follow it with: {shlex.join(['kubectl', *place, 'logs', '-f', f'job/{job.name}'])}",
            "A finished RayJob isn't started again; to continue one, delete it first: "
            + shlex.join(["kubectl", *place, "delete", "rayjob", job.name]),
        ]
        apply = ("kubectl", "apply", "-f", str(job.folder / MANIFEST))
        return Plan(files={MANIFEST: text}, commands=(apply,), notes=tuple(notes))


def _contents(files: dict[str, bytes]) -> dict[str, dict[str, str]]:
    """The content of files in a ConfigMap: text as it is, the rest in base 64."""
    texts, binary = {}, {}
    for key, content in files.items():
        try:
            texts[key] = content.decode("utf-8")
        except UnicodeDecodeError:
            binary[key] = base64.b64encode(content).decode("ascii")
    return {"data": texts, **({"binaryData": binary} if binary else {})}


def _cluster(job: Job, keys: dict[str, str]) -> dict[str, Any]:
    nodes, made = int(job.options["nodes"]), {"rayVersion": version("ray")}
    head = {"rayStartParams": {"dashboard-host": "0.0.0.0"}, "template": _pod(job, "ray-head", keys)}
    workers = {
        "groupName": "workers",
        "replicas": nodes - 1,
        "minReplicas": nodes - 1,
        "maxReplicas": nodes - 1,
        "rayStartParams": {},
        "template": _pod(job, "ray-worker", keys),
    }
    return {**made, "headGroupSpec": head, **({"workerGroupSpecs": [workers]} if nodes > 1 else {})}


def _pod(job: Job, name: str, keys: dict[str, str]) -> dict[str, Any]:
    """A pod with the experiment, the run's volume and as much shared memory as a node has memory."""
    gpus = gpus_of_node(job)
    amounts = {"cpu": str(job.options["cpus"]), "memory": f"{int(memory_gib(job.options['memory']) * 1024)}Mi"}
    amounts |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
    volume = volume_of(job)
    container = {
        "name": name,
        "image": job.options["image"],
        "env": [{"name": key, "value": value} for key, value in pairs(job).items()],
        "resources": {"limits": amounts, "requests": amounts},
        "volumeMounts": [
            {"name": "experiment", "mountPath": PLACE, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
            *([] if volume is None else [{"name": "run", "mountPath": volume[1]}]),
        ],
    }
    items = [{"key": key, "path": path} for key, path in keys.items()]
    volumes = [
        {"name": "experiment", "configMap": {"name": job.name, "items": items}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        *([] if volume is None else [{"name": "run", "persistentVolumeClaim": {"claimName": volume[0]}}]),
    ]
    # A volume is made for root alone by many drivers; so whatever user the image runs as may write it.
    group = {"fsGroup": _GROUP, "fsGroupChangePolicy": "OnRootMismatch"}
    security = {} if volume is None else {"securityContext": group}
    return {"spec": {**security, "containers": [container], "volumes": volumes}}


def _if(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
