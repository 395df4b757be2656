"""`evomerge launch`: a search on a cluster, from its config and the target's name."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli.guard import echo
from evomerge.errors import ConfigError, ExecutionError

if TYPE_CHECKING:
    from evomerge.launch.base import Plan


def _help(text: str) -> Any:
    return typer.Option(show_default=False, help=text)


def launch(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="slurm, ray-job, kuberay, skypilot, ray-cluster.")],
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment's YAML file.")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, on storage that outlives the job.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the files and say the command.")] = False,
    out: Annotated[Path | None, _help("Folder for the files. Default: `launch-` with the run's name.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, show_default=False, help="Machines.")] = None,
    gpus: Annotated[str | None, _help("GPUs of each machine; skypilot: kind and number, A100:8.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, show_default=False, help="CPU cores of each machine.")] = None,
    memory: Annotated[str | None, _help("Memory of each machine, such as 64G.")] = None,
    time: Annotated[str | None, _help("slurm: time limit of each start, such as 12:00:00.")] = None,
    partition: Annotated[str | None, _help("slurm: partition.")] = None,
    account: Annotated[str | None, _help("slurm: account.")] = None,
    workdir: Annotated[str | None, _help("slurm: folder that the job starts in.")] = None,
    setup: Annotated[str | None, _help("Command that makes or activates the Python environment.")] = None,
    address: Annotated[str | None, _help("ray-job: the cluster's job server. Default: RAY_API_SERVER_ADDRESS.")] = None,
    submission_id: Annotated[str | None, _help("ray-job: of the job; new each time.")] = None,
    resources: Annotated[str | None, _help("ray-job: other resources of the entry point, as JSON.")] = None,
    source: Annotated[Path | None, _help("ray-job: upload this evomerge package, too.")] = None,
    pip: Annotated[list[str] | None, _help("ray-job: install on the nodes; repeatable.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="ray-job: the cluster sees CONFIG itself.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="ray-job: return once it is accepted.")] = False,
    env: Annotated[list[str] | None, _help("KEY=VALUE for the job; repeatable.")] = None,
    image: Annotated[str | None, _help("Container image with evomerge and Ray.")] = None,
    volume: Annotated[str | None, _help("kuberay, skypilot: NAME:PATH of the volume that RUN is on.")] = None,
    namespace: Annotated[str | None, _help("kuberay: namespace.")] = None,
    retries: Annotated[int | None, typer.Option(min=0, show_default=False, help="kuberay: further attempts.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="skypilot: machines that may be taken away.")] = False,
    hosts: Annotated[str | None, _help("ray-cluster: machines that are there, head first: A,B,C.")] = None,
    user: Annotated[str | None, _help("ray-cluster: user for SSH.")] = None,
    key: Annotated[str | None, _help("ray-cluster: private key for SSH.")] = None,
    region: Annotated[str | None, _help("ray-cluster: region of AWS.")] = None,
    instance: Annotated[str | None, _help("ray-cluster: kind of machine of AWS.")] = None,
    option: Annotated[list[str] | None, _help("KEY=VALUE for another package's launcher.")] = None,
) -> None:
    """Write what a cluster needs to run a search, and start it there; again, it continues the search.

    With `--dry-run` the files are written for you to look at or edit, and the command is only printed. Each target
    takes those options that fit it, and says so.

    **Example:** `evomerge launch slurm search.yaml /shared/runs/one --nodes 4 --gpus 8`
    """
    given = dict(locals())
    for name in ("target", "config", "run", "dry_run", "out", "option"):
        del given[name]
    given = {name: value for name, value in given.items() if value not in (None, False, [])}
    for pair in option or []:
        if "=" not in pair:
            raise ConfigError(f"launch: --option {pair!r}: expected KEY=VALUE")
        name, _, value = pair.partition("=")
        given[name] = value
    folder, plan = _planned(target, config, run, out, given)
    _write(plan, folder)
    for note in plan.notes:
        echo(note)
    if plan.files:
        echo(f"Wrote {', '.join(sorted({name.partition('/')[0] for name in plan.files}))} into {folder}.")
    for command in plan.commands:
        echo(f"{'To run:' if dry_run else 'Running:'} {shlex.join(command)}")
        if not dry_run:
            _run(command)


def _planned(target: str, config: Path, run: str, out: Path | None, given: dict[str, Any]) -> tuple[Path, Plan]:
    """The folder of the files, and the plan."""
    from evomerge.config.config import Config
    from evomerge.launch import LAUNCHERS
    from evomerge.launch.base import Job, options_of

    launcher = LAUNCHERS.get(target)
    options = options_of(launcher, given)
    experiment = Config.from_file(config)
    folder = (out or Path(f"launch-{Path(run).name}")).absolute()
    return folder, launcher().plan(Job(config=config, experiment=experiment, run=run, folder=folder, options=options))


def _write(plan: Plan, folder: Path) -> None:
    """Put a plan's files into a folder; of folders that are uploaded, nothing else stays there."""
    for name in {name.partition("/")[0] for name in plan.files if "/" in name}:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name, content in plan.files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, place)
        else:
            place.write_text(content, encoding="utf-8")


def _run(command: tuple[str, ...]) -> None:
    """Run a command of a plan. Raises: ExecutionError if it isn't here or fails."""
    try:
        status = subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        raise ExecutionError(
            f"launch: there is no command {command[0]!r} here; install it, or run what is printed above where it is"
        ) from None
    if status:
        raise ExecutionError(f"launch: {command[0]} ended with status {status}; see above")
