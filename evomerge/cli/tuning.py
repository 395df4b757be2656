"""`evomerge tune` and `evomerge alternate`: an expert from a model and data, and rounds of tuning and merging."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import complete
from evomerge.cli.guard import echo, stoppable
from evomerge.files.fresh_folder import refuse_taken

if TYPE_CHECKING:
    from evomerge.tuning.training import Step

_MINUTE_S = 60.0


class Schedule(StrEnum):
    """How the learning rate falls."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class Optimizer(StrEnum):
    """What makes a step of a gradient."""

    adamw = "adamw"
    sgd = "sgd"


class Dtype(StrEnum):
    """Formats that a tuning computes in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float64 = "float64"


class Device(StrEnum):
    """Where a tuning computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def tune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or a hub id.", show_default=False)],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            metavar="FILE",
            help="A text, rows (.json, .jsonl, .csv, .parquet), or a folder of datasets. May be repeated.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to make.", show_default=False)],
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with the text. Default: text.", show_default=False)
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column with what is to follow the text, learnt alone.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with the label, of a classifier.", show_default=False)
    ] = None,
    pair: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with a second text.", show_default=False)
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with an image.", show_default=False)
    ] = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Give the model a new head, for the labels in the data.")
    ] = False,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data. Default: 1.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of epochs.", show_default=False)] = None,
    learning_rate: Annotated[float, typer.Option(help="Largest learning rate.")] = 2e-5,
    batch: Annotated[int, typer.Option(help="Examples that go through the model together.")] = 8,
    accumulation: Annotated[int, typer.Option(help="Batches to a step.")] = 1,
    lora_rank: Annotated[
        int | None, typer.Option(metavar="R", help="Train a LoRA adapter of this rank.", show_default=False)
    ] = None,
    lora_alpha: Annotated[
        int | None, typer.Option(help="Scale of the adapter. Default: twice its rank.", show_default=False)
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Tokens of a block; labelled texts are cut to it. Default: up to 1024.", show_default=False),
    ] = None,
    validation: Annotated[float, typer.Option(metavar="SHARE", help="Share of the data to hold out.")] = 0.1,
    validation_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Data to hold out instead.", show_default=False)
    ] = None,
    warmup: Annotated[float, typer.Option(metavar="SHARE", help="Share of the steps that warm up.")] = 0.03,
    schedule: Annotated[Schedule, typer.Option(help="How the learning rate falls.")] = Schedule.linear,
    optimizer: Annotated[Optimizer, typer.Option(help="What makes a step of a gradient.")] = Optimizer.adamw,
    weight_decay: Annotated[float, typer.Option(help="Of the optimiser.")] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of a gradient; 0: any.")] = 1.0,
    dtype: Annotated[Dtype, typer.Option(help="Format of the computation.")] = Dtype.auto,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    save_every: Annotated[
        int | None,
        typer.Option(metavar="STEPS", help="From checkpoint to checkpoint. Default: 5 minutes.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
) -> None:
    """Fine-tune a model on text, or on labelled texts or images, to make an expert.

    Trains all weights, or with `--lora-rank` an adapter. The same command continues a tuning that was stopped.
    Checkpoints are in FOLDER.tuning until FOLDER is there, complete.

    **Example:** `evomerge tune base-7b --data swahili.jsonl --out swahili-7b --lora-rank 16`
    """
    values = {name: value for name, value in context.params.items() if name not in {"model", "data", "out"}}
    values = {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}
    working = out.with_name(f"{out.name}.tuning")
    with stoppable(working / "tuning.json"):
        refuse_taken(out)
        echo("loading libraries")
        from evomerge.tuning.tune import tune as run

        with training() as progress:
            made = run(model, data, out, progress=progress, report=echo, **values)
    if made.measures:
        first, last = made.measures[0], made.measures[max(made.measures)]
        changes = ", ".join(f"{name} {first[name]:.4f} before, {last[name]:.4f} after" for name in last)
        echo(f"Of {made.validation} held-out examples: {changes}")
    written(made.folder)


def written(folder: Path) -> None:
    """Say what was made."""
    from evomerge.score.numbers import size

    files = sorted(path for path in folder.iterdir() if path.is_file())
    bytes_ = size(sum(file.stat().st_size for file in files if file.suffix == ".safetensors"))
    others = ", ".join(file.name for file in files if file.suffix != ".safetensors")
    echo(f"Wrote {folder}: {bytes_} of weights, {others}")


@contextmanager
def training(prefix: str = "") -> Iterator[Callable[[Step], None]]:
    """Progress of a training: a bar on a terminal, else a line at each look at held-out data and at least each minute.

    Args:
        prefix: what the lines begin with.
    """
    from evomerge.cli.console import say, stdout
    from evomerge.score.numbers import duration

    console = stdout()
    start = said = time.monotonic()
    first: int | None = None

    def pace(step: Step) -> list[str]:
        done = step.step - (first or 0)
        if done < 1 or step.step == step.steps:
            return []
        each = (time.monotonic() - start) / done
        return [f"{duration(each)} a step", f"about {duration(each * (step.steps - step.step))} left"]

    def words(step: Step) -> str:
        parts = [f"{prefix}step {step.step}/{step.steps}"]
        if step.loss is not None:
            parts.append(f"loss {step.loss:.4f}")
        parts += [f"held-out {name} {value:.4f}" for name, value in (step.validation or {}).items()]
        return ", ".join([*parts, *pace(step)])

    def line(step: Step) -> None:
        nonlocal said, first, start
        if first is None:
            # What comes before the first step is looking at held-out data.
            first, start = max(0, step.step - 1) if step.validation is None else step.step, time.monotonic()
        if step.validation is not None or time.monotonic() - said > _MINUTE_S:
            said = time.monotonic()
            say(console, words(step))
            console.file.flush()

    if not console.is_terminal:
        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(prefix or "tuning", total=None)

        def draw(step: Step) -> None:
            loss = f"{prefix or 'tuning, '}loss {step.loss:.3f}" if step.loss is not None else prefix or "tuning"
            bars.update(task, total=step.steps, completed=step.step, description=loss)
            if step.validation is not None:
                line(step)

        yield draw


def alternate(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", autocompletion=complete.configs, help="The YAML file: model, tasks, rounds, tune, merge."
        ),
    ],
    run: Annotated[Path, typer.Option(metavar="DIR", help="Where everything goes.", show_default=False)],
    device: Annotated[Device, typer.Option(help="Where to tune.")] = Device.auto,
) -> None:
    """Tune on several tasks and merge, round after round (ATM).

    The model is DIR/model. The same command continues what was stopped. With one round it is one-shot merging.

    **Example:** `evomerge alternate rounds.yaml --run runs/atm`
    """
    with stoppable(run / "tuning.json"):
        from evomerge.tuning.rounds_config import Rounds

        rounds = Rounds.from_file(config)
        echo("loading libraries")
        from evomerge.tuning.alternate import MODEL
        from evomerge.tuning.alternate import alternate as start

        is_made = (run / MODEL).exists()
        made = start(rounds, run, device=device.value, watch=_Rounds(rounds.rounds), report=echo)
    if is_made:
        echo(f"{made.folder} was made before")
    else:
        written(made.folder)
    echo(f"Next: evomerge score {shlex.quote(str(made.folder))} --tasks TASK")


class _Rounds:
    """A line for each tuning's end and each round, and at least one a minute."""

    def __init__(self, rounds: int) -> None:
        self._rounds, self._said = rounds, time.monotonic()

    def step(self, round_: int, task: str, step: Step) -> None:
        """Say it at the end, and where nothing was said for a minute."""
        ended = step.step == step.steps and step.loss is not None and step.validation is None
        if ended or time.monotonic() - self._said > _MINUTE_S:
            loss = "" if step.loss is None else f", loss {step.loss:.4f}"
            self._say(f"round {round_}/{self._rounds}, {task}: step {step.step}/{step.steps}{loss}")

    def merged(self, round_: int, measures: Mapping[str, Mapping[str, float]]) -> None:
        """Say what the model's held-out measures are."""
        found = [
            f"{task} {', '.join(f'{name} {value:.4f}' for name, value in values.items())}"
            for task, values in measures.items()
        ]
        when = f"after round {round_}/{self._rounds}" if round_ else "before the first round"
        if found:
            self._say(f"{when}, held out: {'; '.join(found)}")

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        echo(text)
        sys.stdout.flush()
