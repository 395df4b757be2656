"""`evomerge.tune`: a model and data in, an expert out. Killed, it goes on where it stood, to the same weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from evomerge.errors import TuningError, counted
from evomerge.files.atomic import json_text
from evomerge.files.fresh_folder import refuse_taken
from evomerge.files.places import local
from evomerge.inference.arithmetic import HALVES, arithmetic_for
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.portable import is_local
from evomerge.streams import derive
from evomerge.tuning.card import RECORD, card, record
from evomerge.tuning.examples import Examples, batches, prepare
from evomerge.tuning.model import adapted, dtype_of, load
from evomerge.tuning.settings import TuneData, TuneSettings
from evomerge.tuning.state import State, at_work, model_files
from evomerge.tuning.training import Report, Training, own_randomness
from evomerge.tuning.write import write_adapter, write_model

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a tuning made.

    Attributes:
        folder: the model or adapter.
        steps: steps of the optimiser.
        train: examples that it was trained on.
        validation: examples that were held out.
        losses: on the training data, by step.
        measures: on held-out data by step, from 0, before the first, to the last; empty without any.
    """

    folder: Path
    steps: int
    train: int
    validation: int
    losses: Mapping[int, float]
    measures: Mapping[int, Mapping[str, float]]


def tune(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    text: str | None = None,
    answer: str | None = None,
    pair: str | None = None,
    image: str | None = None,
    label: str | None = None,
    new_head: bool = False,
    validation_data: str | Path | None = None,
    device: str = "auto",
    progress: Report | None = None,
    report: Callable[[str], None] | None = None,
    **settings: Any,
) -> Tuned:
    """Fine-tune a model: all of its weights, or a LoRA adapter.

    On text, documents are packed into blocks and every token is learnt; with `answer`, what follows each text alone;
    with `label`, on labelled texts or images. The same call continues a tuning that was stopped, from its last
    checkpoint in OUT.tuning, to the same weights on the same machine.

    Args:
        model: a model folder, or a hub id.
        data: files: texts, rows (.json, .jsonl, .csv, .parquet), or folders of `datasets.save_to_disk`.
        out: the folder to make: a model in Hugging Face layout, or a PEFT adapter.
        text: column with the text.
        answer: column with what is to follow it.
        pair: column with a second text.
        image: column with an image.
        label: column with the label.
        new_head: give the model a new head for the labels of the data.
        validation_data: what to hold out; None: a share of `data`, by the setting `validation`.
        device: auto, cpu or cuda.
        progress: called with a `Step` after each step, and each look at held-out data.
        report: called with each sentence that a person should know before training.
        settings: fields of `TuneSettings`, such as learning_rate, epochs, lora_rank and seed.

    Raises:
        ConfigError: settings that aren't known or don't fit.
        TuningError, BenchmarkError: data that can't be learnt from, or a training that fails.
        CheckpointError: a model that can't be tuned.
        ExportError: `out` is taken or can't be written.
        ResumeError, LockedError: OUT.tuning is of another tuning, or another process is at work there.
    """
    files = [data] if isinstance(data, str | Path) else [*data]
    columns = {"text": text, "answer": answer, "pair": pair, "image": image, "label": label, "new_head": new_head}
    source = TuneData.of(
        {
            "data": [str(file) for file in files],
            **columns,
            "validation_data": None if validation_data is None else str(validation_data),
        },
        "tune",
    )
    return run(
        model,
        source,
        TuneSettings.of(settings, "tune"),
        out,
        device=device,
        progress=progress,
        report=report,
    )


def run(
    model: str | Path,
    data: TuneData,
    settings: TuneSettings,
    out: str | Path,
    *,
    device: str = "auto",
    part: int = 0,
    progress: Report | None = None,
    report: Callable[[str], None] | None = None,
) -> Tuned:
    """As `tune`, with checked settings.

    Args:
        model: as there.
        data: as there.
        settings: as there.
        out: as there.
        device: as there.
        part: number of this tuning among several with the same settings, which then see the data in other orders.
        progress: as there.
        report: as there.

    Raises: as there.
    """
    out = local(out).absolute()
    _refuse(out, device, settings)
    base = Checkpoint.open(str(model))
    examples = prepare(data, settings, base)
    steps = settings.total_steps(len(examples.train))
    if report is not None:
        report(_said(examples, steps))
        if slow := _slow(settings, device):
            report(slow)
    asked = {
        "model": base.reference.path if not is_local(base.reference) else str(base.folder.resolve()),
        # A tuning that was begun before there were answers goes on.
        "data": data.model_dump(mode="json", exclude={"answer"} if data.answer is None else None),
        # How often it is saved changes nothing of what comes out.
        "settings": settings.model_dump(mode="json", exclude={"save_every"}),
        "part": part,
    }
    with at_work(out, asked, {**model_files(base.folder), **data_files(data)}) as state:
        with own_randomness(derive(settings.seed, "weights", bits=32)):
            live = load(base, data, settings, examples.labels)
            trained = adapted(live, data, settings) if settings.lora_rank is not None else live
        order = derive(settings.seed, "order", part, bits=32)
        with own_randomness(order):
            found = Training(
                trained,
                examples,
                batches(data, live, dtype_of(settings, base)),
                settings,
                order=order,
                state=state,
                device=device,
                report=progress or (lambda step: None),
            ).run()
            beside = {
                "README.md": card(out.name, base, data, settings, examples, found, steps),
                RECORD: json_text(record(base, data, settings, examples, found, steps)),
            }
            if settings.lora_rank is None:
                write_model(out, trained, base, beside, new_head=data.new_head)
            else:
                write_adapter(out, trained, base, beside)
    return Tuned(
        folder=out,
        steps=steps,
        train=len(examples.train),
        validation=len(examples.validation),
        losses=found.losses,
        measures=found.validation,
    )


def measure(
    model: str | Path, data: TuneData, settings: TuneSettings, *, device: str = "auto"
) -> dict[str, float] | None:
    """What a tuning with these settings would measure before its first step; None if it held nothing out.

    Raises: as `tune`.
    """
    base = Checkpoint.open(str(model))
    examples = prepare(data, settings, base)
    if not examples.validation:
        return None
    with tempfile.TemporaryDirectory() as folder, own_randomness(settings.seed):
        live = load(base, data, settings, examples.labels)
        collate = batches(data, live, dtype_of(settings, base))
        training = Training(
            live,
            examples,
            collate,
            settings,
            order=settings.seed,
            state=State(Path(folder)),
            device=device,
            report=lambda step: None,
        )
        return training.measure()


def _refuse(out: Path, device: str, settings: TuneSettings) -> None:
    """What can be said before anything is read."""
    refuse_taken(out)
    if device not in DEVICES:
        raise TuningError(f"device: {device!r} is none of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise TuningError("device: there is no CUDA device here that torch can use; take cpu")
    if find_spec("accelerate") is None:
        raise TuningError("tuning needs accelerate: pip install 'evomerge[tune]'")
    if settings.lora_rank is not None and find_spec("peft") is None:
        raise TuningError("an adapter needs PEFT: pip install 'evomerge[tune]'")


def _slow(settings: TuneSettings, device: str) -> str | None:
    """What should be known of the format that is asked for, where this CPU has no arithmetic for it."""
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    found = arithmetic_for(settings.dtype, "auto", on_cpu=on_cpu)
    slow = settings.dtype in HALVES and found.dtype == "float32"
    return f"{found.why}; without dtype {settings.dtype}, which was asked for, this is faster" if slow else None


def data_files(data: TuneData) -> dict[str, Path]:
    """Every file of the data, by the number of its source and its name."""
    found: dict[str, Path] = {}
    for number, name in enumerate((*data.data, *([data.validation_data] if data.validation_data else []))):
        path = local(name)
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        found |= {f"data/{number}/{file.name}": file for file in files}
    return found


def _said(examples: Examples, steps: int) -> str:
    held = f"{len(examples.validation)} held out ({examples.how})" if examples.validation else "none held out"
    return f"{len(examples.train)} {examples.unit} to train on, {held}; {counted(steps, 'step')}"
