"""Data for tuning, processes that are killed while they tune, and gradients by hand."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from evomerge.models.checkpoint import Checkpoint
from helpers.commands import Command

SENTENCES = (
    "The river rises in the hills and runs past the market town down to the sea.",
    "A farmer has twelve goats and sells five of them; how many goats are left?",
    "Watoto wanasoma vitabu shuleni kila siku asubuhi na jioni.",
    "Mvua ilinyesha usiku kucha na mto ukajaa maji mengi.",
)


def write_rows(path: Path, count: int = 24, start: int = 0) -> Path:
    """A JSON-lines file with a text in each row, no two of them the same."""
    rows = [{"text": f"{number}. {SENTENCES[number % 4]}"} for number in range(start, start + count)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder."""
    model = Checkpoint.open(folder)
    return {name: model.tensor(name).clone() for name in model.names}


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Whether two models are the same, bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def killed(arguments: list[str], folder: Path, until: str, *, timeout_s: float = 240) -> None:
    """Run the command line, and kill it (SIGKILL) as soon as a path matches `until` in the folder."""
    process = Command(arguments, folder=folder)
    end = time.monotonic() + timeout_s
    while not any(folder.glob(until)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"nothing matched {until}"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
