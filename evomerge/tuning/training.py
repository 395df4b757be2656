"""Training through transformers' Trainer: exact checkpoints, reports, and nothing on the screen but our own words."""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from evomerge.errors import TuningError
from evomerge.kernels.device_memory import is_out_of_memory
from evomerge.models.transformers_settings import without_remarks
from evomerge.tuning.examples import Examples
from evomerge.tuning.settings import TuneSettings
from evomerge.tuning.state import State
from evomerge.tuning.texts import IGNORED

_CHECKPOINT_S = 300.0
_REPORTS = 10
"""How often held-out data are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a training is.

    Attributes:
        step: steps done.
        steps: steps in all.
        loss: of the last step; None before the first.
        validation: what was measured on held-out data at this step, by name, such as loss and accuracy.
    """

    step: int
    steps: int
    loss: float | None = None
    validation: Mapping[str, float] | None = None


Report = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training: held-out measures by step, the first before it and the last after it; mean last loss."""

    validation: Mapping[int, Mapping[str, float]]
    losses: Mapping[int, float]


class Items(Dataset[Any]):
    """Examples in a fixed order."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> Any:
        return self._items[place]


class Training:
    """One training of one model. Draws on torch's own generators, and leaves them as they were.

    Args:
        model: what is trained, in place.
        examples: what it learns from, and what is held out.
        collate: puts examples into a batch.
        settings: how to learn.
        order: seed of the data's order and of dropout.
        state: where checkpoints go.
        device: auto, cpu or cuda.
        report: called after each step and each look at the held-out data.
    """

    def __init__(
        self,
        model: Any,
        examples: Examples,
        collate: Callable[[Sequence[Any]], Any],
        settings: TuneSettings,
        *,
        order: int,
        state: State,
        device: str,
        report: Report,
    ) -> None:
        self._state, self._order, self._report = state, order, report
        self._steps = settings.total_steps(len(examples.train))
        self._looks = bool(examples.validation)
        arguments = TrainingArguments(
            output_dir=str(state.folder),
            max_steps=self._steps,
            learning_rate=settings.learning_rate,
            per_device_train_batch_size=settings.batch,
            per_device_eval_batch_size=settings.batch,
            gradient_accumulation_steps=settings.accumulation,
            optim="adamw_torch" if settings.optimizer == "adamw" else "sgd",
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip,
            bf16=settings.dtype == "bfloat16",
            use_cpu=device == "cpu" or not torch.cuda.is_available(),
            seed=order,
            data_seed=order,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to="none",
            remove_unused_columns=False,
            label_names=["labels"],
            dataloader_pin_memory=False,
            prediction_loss_only=not examples.labels,
        )
        if arguments.n_gpu > 1:
            # All GPUs at once would be another batch than was asked for.
            arguments._n_gpu = 1
        self._trainer = _Trainer(
            settings,
            answers=examples.answers,
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=Items(examples.train),
            eval_dataset=Items(examples.validation) if examples.validation else None,
            compute_metrics=_accuracy if examples.labels else None,
            preprocess_logits_for_metrics=_guesses if examples.labels else None,
            callbacks=[_Watch(self, settings, self._steps)],
        )
        self._trainer.remove_callback(PrinterCallback)

    def run(self) -> Trained:
        """Train from the last checkpoint to the end.

        Raises: TuningError if a loss isn't finite, or memory doesn't suffice.
        """
        checkpoint = self._state.checkpoint
        if self._looks and checkpoint is None and self._state.start is None:
            self._state.start = self.measure()
        start = self._state.start
        if checkpoint is None and start is not None:
            self._report(Step(step=0, steps=self._steps, validation=start))
        # Looking at held-out data before has drawn numbers, and an earlier session may have done that.
        set_seed(self._order)
        try:
            self._trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        except Exception as error:
            if is_out_of_memory(error):
                raise TuningError(
                    "memory doesn't suffice; take a smaller batch with more accumulation, shorter blocks (length) or "
                    "an adapter (lora_rank); what is done is kept"
                ) from error
            raise
        history = self._trainer.state.log_history
        looks = {int(entry["step"]): _measures(entry) for entry in history if "eval_loss" in entry}
        return Trained(
            validation={**({0: start} if start is not None else {}), **looks},
            losses={int(entry["step"]): float(entry["loss"]) for entry in history if "loss" in entry},
        )

    def measure(self) -> dict[str, float]:
        """Loss, and accuracy of classes, on the held-out examples."""
        return _measures(self._trainer.evaluate())

    def checkpoint_is_written(self, step: int) -> None:
        """Called when all files of a checkpoint are there."""
        self._state.finish_checkpoint(step)

    def say(self, step: Step) -> None:
        """Pass on where the training is."""
        self._report(step)

    @property
    def looks(self) -> bool:
        """Whether there are held-out examples."""
        return self._looks


def rate(settings: TuneSettings, step: int, steps: int) -> float:
    """The learning rate of a step, the first being 0, as a share of the largest. No step has none."""
    rising = int(settings.warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    left = (steps - step) / (steps - rising) if step < steps else 0.0
    if settings.schedule == "linear":
        return left
    return 1.0 if settings.schedule == "constant" else (1 - math.cos(math.pi * left)) / 2


class _Trainer(Trainer):
    """transformers' Trainer with our schedule, whose first step isn't lost to a rate of 0."""

    def __init__(self, settings: TuneSettings, *, answers: bool, **given: Any) -> None:
        self._settings, self._answers = settings, answers
        inner = getattr(given["model"], "get_base_model", lambda: given["model"])()
        self._keeps = "logits_to_keep" in signature(inner.forward).parameters
        super().__init__(**given)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """A scheduler that multiplies the learning rate by `rate`."""
        if self.lr_scheduler is None:
            share = partial(rate, self._settings, steps=num_training_steps)
            chosen: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, share)
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None, **more: Any
    ) -> Any:
        """The Trainer's; of texts with answers, with logits at no more positions than are learnt.

        A large vocabulary's logits at every position of a long text would cost most of the time and memory.
        """
        if not self._answers:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch, **more)
        given = dict(inputs)
        labels = given.pop("labels")
        # The logits at a position are of the token after it.
        learnt = (labels[:, 1:] != IGNORED).any(dim=0).nonzero()[:, 0]
        if self._keeps:
            outputs = model(**given, logits_to_keep=learnt)
            logits = outputs.logits
        else:
            outputs = model(**given)
            logits = outputs.logits[:, learnt]
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1) if logits.dtype != torch.float64 else logits.flatten(0, 1),
            labels[:, learnt + 1].flatten(),
            ignore_index=IGNORED,
            reduction="mean" if num_items_in_batch is None else "sum",
        )
        if num_items_in_batch is not None:
            loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class _Watch(TrainerCallback):
    """Decides when to save and to look at held-out data, and passes on what happens."""

    def __init__(self, training: Training, settings: TuneSettings, steps: int) -> None:
        self._training, self._steps = training, steps
        self._save_every = settings.save_every
        self._look_every = max(1, steps // _REPORTS)
        self._saved = time.monotonic()
        self._loss: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        step = state.global_step
        if self._save_every is not None:
            control.should_save = step % self._save_every == 0
        elif time.monotonic() - self._saved > _CHECKPOINT_S:
            control.should_save = True
        if self._training.looks:
            control.should_evaluate = step % self._look_every == 0 or step == self._steps

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._training.checkpoint_is_written(state.global_step)
        self._saved = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if "loss" in logs:
            self._loss = float(logs["loss"])
            if not math.isfinite(self._loss):
                raise TuningError(
                    f"the loss of step {state.global_step} is {self._loss}; take a smaller learning rate than "
                    f"{args.learning_rate:g}, or look for damaged weights"
                )
            self._training.say(Step(step=state.global_step, steps=self._steps, loss=self._loss))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **more: Any) -> None:
        if state.global_step:
            step = Step(step=state.global_step, steps=self._steps, loss=self._loss, validation=_measures(metrics))
            self._training.say(step)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Within, the process-wide generators start from a seed; after it they are as they were. Libraries keep quiet."""
    kept = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings(), without_remarks():
        warnings.simplefilter("ignore")
        set_seed(seed)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


def _measures(entry: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(entry[f"eval_{name}"]) for name in ("loss", "accuracy") if f"eval_{name}" in entry}


def _accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(found.predictions == found.label_ids))}


def _guesses(logits: Any, labels: Any) -> Any:
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)
