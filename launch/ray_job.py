#!/usr/bin/env python
"""Submit a search to a Ray cluster as a job, or resume it there: the same command does both.

    python launch/ray_job.py CONFIG RUN_DIR --address http://HEAD:8265

The job runs `evomerge search CONFIG --run RUN_DIR` on the cluster's head. RUN_DIR has to be absolute and
on storage that outlives the job. Submitted again after the job was stopped or killed, the search goes on
where its run directory says; a second job on a run directory in use is refused by the search itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

WEIGHTS = ["*.safetensors", "*.bin", "*.pt", "*.gguf"]
"""Never uploaded: the cluster is given models as hub ids or as absolute paths that its nodes see."""


COMPILED = ["__pycache__/"]
"""Never uploaded either: compiled loops are large, and each machine has its own."""


def main(arguments: list[str] | None = None) -> int:
    """Submit, follow the log unless told not to, and return the exit status of `ray job submit`."""
    parser = argparse.ArgumentParser(
        description="Submit a search to a Ray cluster; submit it again to resume.", allow_abbrev=False
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the experiment's YAML")
    parser.add_argument("run", metavar="RUN_DIR", help="absolute, on storage that every head sees again")
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_API_SERVER_ADDRESS"),
        help="the cluster's job server, such as http://HEAD:8265; default: RAY_API_SERVER_ADDRESS",
    )
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="the cluster sees CONFIG under the same absolute path; default: upload its folder without weights",
    )
    parser.add_argument("--source", type=Path, help="upload this evomerge package instead of using the installed one")
    parser.add_argument("--pip", action="append", default=[], metavar="REQ", help="install on the nodes; repeatable")
    parser.add_argument("--env", action="append", default=[], metavar="KEY=VALUE", help="for the job; repeatable")
    parser.add_argument("--no-wait", action="store_true", help="return once the job is accepted")
    parser.add_argument("--dry-run", action="store_true", help="print the command and submit nothing")
    options = parser.parse_args(arguments)
    if not options.config.is_file():
        parser.error(f"{options.config}: no such file")
    if not options.address:
        # Without one, Ray would start a cluster of its own here.
        parser.error("give the cluster's job server with --address or RAY_API_SERVER_ADDRESS")
    if not PurePosixPath(options.run).is_absolute():
        parser.error(f"RUN_DIR {options.run!r} must be absolute: a job's own folder vanishes with the job")
    for pair in options.env:
        if "=" not in pair:
            parser.error(f"--env {pair!r}: expected KEY=VALUE")
    command = submit_command(options)
    if options.dry_run:
        print(shlex.join(command))
        return 0
    return subprocess.run(command, check=False).returncode


def submit_command(options: argparse.Namespace) -> list[str]:
    """The `ray job submit` command line for the parsed options."""
    config = options.config.resolve()
    environment: dict[str, Any] = {}
    if variables := dict(pair.split("=", 1) for pair in options.env):
        environment["env_vars"] = variables
    if options.pip:
        environment["pip"] = options.pip
    if options.source is not None:
        environment["py_modules"] = [str(options.source.resolve())]
        environment["excludes"] = COMPILED
    beside = Path(sys.executable).with_name("ray")
    command = [str(beside) if beside.exists() else "ray", "job", "submit", "--address", options.address]
    if not options.in_place:
        environment["excludes"] = [*environment.get("excludes", []), *WEIGHTS]
        command += ["--working-dir", str(config.parent)]
    if environment:
        command += ["--runtime-env-json", json.dumps(environment)]
    if options.no_wait:
        command.append("--no-wait")
    where = str(config) if options.in_place else config.name
    return [*command, "--", "python", "-m", "evomerge", "search", where, "--run", options.run]


if __name__ == "__main__":
    sys.exit(main())
