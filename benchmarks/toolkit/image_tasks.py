"""Eight tasks made of scikit-learn's handwritten digits, small vision transformers for them, and their files.

The base is trained on the digits as they are, an expert on each task from there, with a head of its own. All tasks
split the digits in the same way, so that no picture of a test item was seen under another task.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from evomerge.streams import stream

SIDE = 8
PARTS = {"train": 900, "search": 200, "validation": 160, "test": 537}
SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": SIDE,
    "patch_size": 4,
}

Pixels = NDArray[np.uint8]


class Task(NamedTuple):
    """How pictures are changed, (items, 8, 8), and what a digit's label is; None leaves the digit out."""

    change: Callable[[Pixels], Pixels]
    label: Callable[[int], str | None]


def _same(pixels: Pixels) -> Pixels:
    return pixels


UPRIGHT = Task(_same, str)
TASKS: Mapping[str, Task] = {
    "rotated": Task(lambda pixels: np.rot90(pixels, axes=(1, 2)), str),
    "upside-down": Task(lambda pixels: pixels[:, ::-1], str),
    "mirrored": Task(lambda pixels: pixels[:, :, ::-1], str),
    "transposed": Task(lambda pixels: pixels.transpose(0, 2, 1), str),
    "inverted": Task(lambda pixels: 255 - pixels, str),
    "low": Task(_same, lambda digit: str(digit) if digit < 5 else None),
    "high": Task(_same, lambda digit: str(digit) if digit >= 5 else None),
    "parity": Task(_same, lambda digit: "odd" if digit % 2 else "even"),
}

Items = tuple[Pixels, list[str]]


def make(folder: Path, *, seed: int, base_epochs: int, epochs: int) -> None:
    """Write `base`, a folder for each task's expert, and `data/TASK/PART.jsonl`.

    Args:
        folder: to write into.
        seed: of the split, of weights and of batches.
        base_epochs: over the digits as they are.
        epochs: over a task's own items, from the base.
    """
    parts = _parts(seed)
    torch.manual_seed(int(stream(seed, "weights").integers(2**31)))
    base = _model([str(digit) for digit in range(10)])
    _train(base, items_of(UPRIGHT, *parts["train"]), seed, "base", base_epochs)
    _save(base, folder / "base")
    for name, task in TASKS.items():
        items = {part: items_of(task, *found) for part, found in parts.items()}
        labels = sorted(set(items["train"][1]))
        expert = _model(labels)
        expert.vit.load_state_dict(copy.deepcopy(base.vit.state_dict()))
        _train(expert, items["train"], seed, name, epochs)
        _save(expert, folder / name)
        for part in ("search", "validation", "test"):
            _write(folder / "data" / name / f"{part}.jsonl", items[part])


def items_of(task: Task, pixels: Pixels, digits: NDArray[np.int64]) -> Items:
    """A task's pictures and labels."""
    labels = [task.label(int(digit)) for digit in digits]
    kept = [place for place, label in enumerate(labels) if label is not None]
    return np.ascontiguousarray(task.change(pixels[kept])), [str(labels[place]) for place in kept]


def _parts(seed: int) -> dict[str, tuple[Pixels, NDArray[np.int64]]]:
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, SIDE, SIDE) * 255 / 16).astype(np.uint8)
    order = stream(seed, "parts").permutation(len(digits))
    edges = np.cumsum([0, *PARTS.values()])
    assert edges[-1] == len(digits)
    return {
        part: (pixels[order[start:end]], digits[order[start:end]])
        for part, start, end in zip(PARTS, edges[:-1], edges[1:], strict=True)
    }


def _model(labels: list[str]) -> Any:
    names = dict(enumerate(labels))
    config = transformers.ViTConfig(
        **SIZES, id2label=names, label2id={label: number for number, label in names.items()}, hidden_dropout_prob=0.0
    )
    return transformers.ViTForImageClassification(config)


def _processor() -> Any:
    return transformers.ViTImageProcessorPil(do_resize=False, size={"height": SIDE, "width": SIDE})


def _train(model: Any, items: Items, seed: int, name: str, epochs: int) -> None:
    """AdamW with a linear decay to zero, the head's rate being the body's."""
    pixels, labels = items
    coloured = [np.repeat(picture[:, :, None], 3, axis=2) for picture in pixels]
    inputs = torch.from_numpy(np.stack(_processor()(coloured)["pixel_values"]))
    wanted = torch.tensor([model.config.label2id[label] for label in labels])
    order = stream(seed, "batches", name)
    batches = [batch for _ in range(epochs) for batch in np.array_split(order.permutation(len(labels)), 13)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches))
    model.train()
    for batch in batches:
        loss = torch.nn.functional.cross_entropy(model(pixel_values=inputs[batch]).logits, wanted[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    _processor().save_pretrained(folder)


def _write(path: Path, items: Items) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for picture, label in zip(*items, strict=True):
            file.write(json.dumps({"pixels": picture.tolist(), "label": label}) + "\n")
