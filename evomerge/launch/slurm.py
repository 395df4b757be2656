"""Slurm: a batch script that makes one Ray cluster of the job's nodes and runs the search on the first."""

from __future__ import annotations

import os
import re
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from evomerge.errors import ConfigError
from evomerge.files.outside import read_text
from evomerge.files.shipped import shipped
from evomerge.launch.base import Job, Plan, gpus_of_node, memory_gib, workers_notes

SCRIPT = "slurm.sbatch"

_RAY = (2, 54)
"""The first release whose symmetric-run has nodes wait for a head that is only starting."""

_SETUP = re.compile(r"(?<=# begin setup\n).*?(?=# end setup\n)", re.DOTALL)


class Slurm:
    """A batch job, which goes back into the queue at its time limit and when it is preempted."""

    name: ClassVar[str] = "slurm"
    summary: ClassVar[str] = "a batch job; makes a Ray cluster of its nodes and requeues itself"
    options: ClassVar[dict[str, Any]] = {
        "nodes": 1,
        "gpus": None,
        "cpus": 16,
        "memory": None,
        "time": "12:00:00",
        "partition": None,
        "account": None,
        "workdir": None,
        "setup": None,
    }

    def plan(self, job: Job) -> Plan:
        """The script with the job's own lines, and `sbatch`."""
        options, gpus = job.options, gpus_of_node(job)
        memory = options["memory"]
        lines: dict[str, Any] = {
            "job-name": job.name,
            "nodes": options["nodes"],
            "cpus-per-task": options["cpus"],
            "gpus-per-node": gpus or None,
            "mem": "0" if memory is None else f"{int(memory_gib(memory) * 1024)}M",
            "time": options["time"],
            "partition": options["partition"],
            "account": options["account"],
            "chdir": options["workdir"],
        }
        for key, value in lines.items():
            if value is not None and not re.fullmatch(r"[\w./:+,@%-]+", str(value)):
                raise ConfigError(f"launch: {value!r} can't stand in a line #SBATCH --{key}=")
        template = read_text(shipped("launch") / SCRIPT, ConfigError)
        text = with_directives(template, {key: None if value is None else str(value) for key, value in lines.items()})
        setup = options["setup"] or f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH"
        text = _SETUP.sub(lambda _: f"{setup}\n", text)
        script = str(job.folder / SCRIPT)
        notes = workers_notes(job)
        if options["setup"] is None:
            _check_ray(int(options["nodes"]))
            notes.append(f"The job uses the Python environment of this command, {sys.prefix}; --setup gives another.")
        run = str(Path(options["workdir"] or ".").absolute() / job.run)
        return Plan(
            files={SCRIPT: text},
            commands=(("sbatch", script, str(job.config.resolve()), run),),
            notes=tuple(notes),
        )


def _check_ray(nodes: int) -> None:
    """Raises: ConfigError if this environment's Ray can't bring so many nodes together."""
    found = version("ray")
    if nodes > 1 and tuple(int(part) for part in found.split(".")[:2]) < _RAY:
        needed = ".".join(map(str, _RAY))
        raise ConfigError(
            f"launch slurm: {nodes} nodes need Ray {needed} or later, and this environment has {found}; "
            f"pip install 'ray>={needed}', or give another environment with --setup"
        )


def with_directives(text: str, values: dict[str, str | None]) -> str:
    """A batch script with these #SBATCH options in place of its own; None takes one out. Others stay."""
    left, made = dict(values), []
    for line in text.splitlines():
        found = re.match(r"#SBATCH --([\w-]+)=", line)
        if found is None or found[1] not in values:
            made.append(line)
        elif (value := left.pop(found[1], None)) is not None:
            made.append(f"#SBATCH --{found[1]}={value}")
    last = max(number for number, line in enumerate(made) if line.startswith("#SBATCH"))
    made[last + 1 : last + 1] = [f"#SBATCH --{key}={value}" for key, value in left.items() if value is not None]
    return "\n".join(made) + "\n"
