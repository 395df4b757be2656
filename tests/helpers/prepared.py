"""A merge method that notes each preparation, and a process that prepares and merges with it.

python -m helpers.prepared STATES OUT BASE EXPERT... merges into the file OUT. It begins when the named pipe
OUT.go is closed. Environment: NOTES is the file of notes, SECONDS how long each preparation takes, KILL the tensor at
whose preparation the process kills itself, KILL_WRITING the one half of whose file is written then, and FILE_SIZE the
most bytes of a file.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from evomerge.materialise import states as stored_states
from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from helpers.commands import Command
from helpers.patience import LONG_S


@dataclass(frozen=True)
class Mean:
    change: Tensor
    entries: int


class Noted(MergeMethod):
    """base + scale * mean task vector."""

    name = "noted"
    summary = "A mean."
    source = "test"
    parameters = (Parameter(name="scale", description="", default=1.0, low=0.0, high=2.0),)
    options = (Option(name="plain", description="", default=True), Option(name="shift", description="", default=0.0))

    def prepare(self, inputs: TensorInputs) -> Any:
        if "NOTES" in os.environ:
            with Path(os.environ["NOTES"]).open("a") as file:
                file.write(f"{os.getpid()} {inputs.name}\n")
        if os.environ.get("KILL") == inputs.name:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("SECONDS", "0")))
        assert inputs.base is not None
        total = torch.zeros(inputs.base.shape, dtype=torch.float64)
        for expert in inputs.experts:
            total += (expert.double() - inputs.base.double()) / len(inputs.experts)
        state = Mean(total + self.option["shift"], total.numel())
        return state if self.option["plain"] else iter([state])

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        return 8 * torch.Size(shape).numel()

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> None:
        assert inputs.base is not None
        mean = state if self.option["plain"] else next(state)
        assert mean.entries == out.numel()
        out.copy_(inputs.base.double() + float(coefficients["scale"]) * mean.change)


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def files_of(states: Path) -> list[Path]:
    return sorted(states.glob("*/*.safetensors"))


class Started(NamedTuple):
    process: Command
    out: Path
    gate: int

    def go(self) -> None:
        os.close(self.gate)

    def wait(self) -> tuple[int | None, str]:
        said, _ = self.process.communicate(timeout=LONG_S)
        return self.process.returncode, said


def start(states: Path, out: Path, models: Sequence[Path], **environment: str) -> Started:
    """A process that has opened the models and waits for a word to begin."""
    gate = out.with_name(f"{out.name}.go")
    os.mkfifo(gate)
    process = Command([states, out, *models], module="helpers.prepared", variables=environment)
    while process.poll() is None:
        try:
            return Started(process, out, os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:  # that nobody reads yet
                raise
            time.sleep(0.005)
    raise AssertionError(process.communicate())


METHOD = "helpers.prepared:Noted"


def merger_of(folders: Sequence[Path], states: Path | None) -> Merger:
    base, *experts = map(Checkpoint.open, folders)
    return Merger(Models(base, {expert.folder.name: expert for expert in experts}), states=states)


def recipe_of(folders: Sequence[Path], method: str = "noted", **settings: Any) -> Recipe:
    base, *experts = (ModelReference(path=str(folder)) for folder in folders)
    names = [folder.name for folder in folders[1:]]
    return Recipe(
        base=base,
        experts=dict(zip(names, experts, strict=True)),
        method=method,
        groups=(Group(name="all", coefficients=settings.pop("coefficients", {})),),
        **settings,
    )


def merged(merger: Merger, recipe: Recipe) -> dict[str, Tensor]:
    targets = {name: torch.full_like(merger.base.tensor(name), torch.nan) for name in merger.base.names}
    merger.write(merger.bind(recipe), targets)
    return targets


def _save_half(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    if metadata["tensor"] != os.environ["KILL_WRITING"]:
        save_file(tensors, path, metadata)
        return
    data = save(tensors, metadata)
    path.write_bytes(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    kept, out, *folders = map(Path, sys.argv[1:])
    if "KILL_WRITING" in os.environ:
        stored_states.save_file = _save_half
    merger = merger_of(folders, kept)
    out.with_name(f"{out.name}.go").read_bytes()
    _, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if "FILE_SIZE" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FILE_SIZE"]), unlimited))
    with METHODS.extended({"noted": METHOD}):
        found = merged(merger, recipe_of(folders))
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    save_file(found, out)
    if merger.preparer.problem:
        print(merger.preparer.problem, flush=True)


if __name__ == "__main__":
    main()
