"""How task vectors lie to the gradient they began with, and what short tunings are worth to a merge.

For each seed a small vision transformer is trained on a few of scikit-learn's digits in four forms (as they are,
rotated, mirrored, inverted), tuned on each form for 1 to 30 epochs with a constant rate, and merged by task arithmetic
with one weight for all, chosen on search items. Then rounds of one epoch and a merge (ATM), against one-shot merging
after as many epochs and joint training on all forms. Accuracies are the mean over the four forms on test items.

    python benchmarks/toolkit/task_vectors.py --seeds 0 1 2 --json task_vectors.json --html task_vectors.html
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from image_tasks import SIDE, SIZES
from numpy.typing import NDArray
from torch import Tensor

from evomerge.report.figures import Curve, lines
from evomerge.report.page import Page, require_figures
from evomerge.streams import derive, stream
from evomerge.tuning.alternate import alternate
from evomerge.tuning.tune import Tuned, tune

FORMS: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "as they are": lambda pixels: pixels,
    "rotated": lambda pixels: np.rot90(pixels, axes=(1, 2)),
    "mirrored": lambda pixels: pixels[:, :, ::-1],
    "inverted": lambda pixels: 255 - pixels,
}
PARTS = {"base": 200, "train": 700, "search": 360, "test": 537}
GRID = tuple(round(0.05 * step, 2) for step in range(1, 31))
ATM_WEIGHTS = (0.25, 0.5)

Items = tuple[Tensor, Tensor]
"""Pixel values as the model takes them, and labels."""
Weights = dict[str, Tensor]


class Told(NamedTuple):
    """What every tuning of a seed has in common."""

    seed: int
    rate: float
    batch: int


def main() -> None:
    """Run and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5, 10, 30])
    parser.add_argument("--base-epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10, help="of ATM, one epoch each")
    parser.add_argument("--rate", type=float, default=0.005, help="learning rate of plain gradient descent")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--items", type=int, help="of the 700 of each form, how many are learnt; default: all")
    parser.add_argument("--folder", type=Path, help="where models stay; default: a temporary one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    options = parser.parse_args()
    if options.html is not None:
        require_figures()
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    found = []
    with TemporaryDirectory() as temporary:
        for seed in options.seeds:
            start = time.monotonic()
            found.append(run((options.folder or Path(temporary)) / f"seed-{seed}", seed, options))
            print(f"seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    for columns, rows in (by_epochs(found), by_merge(found)):
        print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
    gaps = ", ".join(f"{row['one step']:.1e}" for row in found)
    print(f"\none step on all items: |τ + η∇L| / |η∇L| = {gaps}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.html is not None:
        page_of(found).write(options.html)


def run(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Everything of one seed."""
    told = Told(seed, options.rate, options.batch)
    pixels, digits = split(seed)
    pixels["train"], digits["train"] = pixels["train"][: options.items], digits["train"][: options.items]
    files = {name: write(folder / f"{name}.jsonl", pixels["train"], digits["train"], name) for name in FORMS}
    base = new_base(folder, seed, pixels["base"], digits["base"], options)
    model = transformers.ViTForImageClassification.from_pretrained(base)
    items = {part: {name: inputs(change(pixels[part]), digits[part]) for name, change in FORMS.items()}
             for part in ("train", "search", "test")}  # fmt: skip
    start = weights(base)
    gradients = {name: gradient(model, items["train"][name]) for name in FORMS}

    def merged(experts: Sequence[Weights]) -> dict[str, float]:
        """The best of the weights on search items: which, and its accuracy on test items."""
        total = {name: sum(expert[name] - start[name] for expert in experts) for name in start}
        best = max(GRID, key=lambda weight: accuracy(model, added(start, total, weight), items["search"]))
        return {"weight": best, "test": accuracy(model, added(start, total, best), items["test"])}

    def tuned(name: str, epochs: int) -> Weights:
        return weights(descent(base, files[name], folder / f"{name}-{epochs}", told, epochs=epochs).folder)

    rows = {}
    first: dict[str, Weights] = {}
    for epochs in sorted(options.epochs):
        experts = {name: tuned(name, epochs) for name in FORMS}
        taus = {name: difference(expert, start) for name, expert in experts.items()}
        first = first or taus
        rows[str(epochs)] = {
            "gradient": mean([-cosine(taus[name], gradients[name]) for name in FORMS]),
            "first": mean([cosine(taus[name], first[name]) for name in FORMS]),
            "share": mean([norm(first[name]) / norm(taus[name]) for name in FORMS]),
            "tasks": mean([cosine(taus[a], taus[b]) for a in FORMS for b in FORMS if a < b]),
            "own": mean([right(model, experts[name], items["test"][name]) for name in FORMS]),
            "merge": merged([*experts.values()]),
        }
    rounds = {}
    for weight in ATM_WEIGHTS:
        made = weights(rounds_of(folder / f"atm-{weight}", base, files, weight, options.rounds, told))
        rounds[str(weight)] = {part: accuracy(model, made, items[part]) for part in ("search", "test")}
    chosen = max(rounds, key=lambda weight: rounds[weight]["search"])
    together = descent(base, [*files.values()], folder / "joint", told, epochs=options.rounds)
    return {
        "seed": seed,
        "base": {name: right(model, start, items["test"][name]) for name in FORMS},
        "epochs": rows,
        "ATM": {"weight": float(chosen), "test": rounds[chosen]["test"], "by weight": rounds},
        "joint": accuracy(model, weights(together.folder), items["test"]),
        "one step": one_step(folder, base, files, items["train"], told),
    }


def one_step(folder: Path, base: Path, files: Mapping[str, Path], items: Mapping[str, Items], told: Told) -> float:
    """The largest relative distance of a task vector after one step on all items from −η∇L, all in float64."""
    model = transformers.ViTForImageClassification.from_pretrained(base, dtype=torch.float64)
    model.save_pretrained(folder / "float64")
    processor().save_pretrained(folder / "float64")
    start, gaps = weights(folder / "float64"), []
    for name in FORMS:
        made = descent(folder / "float64", files[name], folder / f"{name}-step", told, steps=1, batch=10_000)
        found = gradient(model, (items[name][0].double(), items[name][1]))
        tau = difference(weights(made.folder), start)
        gaps.append(norm(added(tau, found, told.rate)) / (told.rate * norm(found)))
    return max(gaps)


def split(seed: int) -> tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[np.int64]]]:
    """The digits by part; all forms split them in the same way."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, SIDE, SIDE) * 255 / 16).astype(np.uint8)
    order = np.split(stream(seed, "parts").permutation(len(digits)), np.cumsum([*PARTS.values()])[:-1])
    places = dict(zip(PARTS, order, strict=True))
    return {part: pixels[at] for part, at in places.items()}, {part: digits[at] for part, at in places.items()}


def new_base(
    folder: Path, seed: int, pixels: NDArray[np.uint8], digits: NDArray[np.int64], options: argparse.Namespace
) -> Path:
    """A model that has seen a few digits of each form."""
    names = {number: str(number) for number in range(10)}
    config = transformers.ViTConfig(
        **SIZES, id2label=names, label2id={label: number for number, label in names.items()},
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(derive(seed, "weights", bits=31))
    transformers.ViTForImageClassification(config).save_pretrained(folder / "untrained")
    processor().save_pretrained(folder / "untrained")
    few = [write(folder / f"{name}-base.jsonl", pixels, digits, name) for name in FORMS]
    return tune(
        folder / "untrained", few, folder / "base", image="pixels", label="label", validation=0.0, seed=seed,
        epochs=options.base_epochs, batch=32, learning_rate=1e-3, device="cpu",
    ).folder  # fmt: skip


def settings_of(told: Told) -> dict[str, Any]:
    """Plain gradient descent on batches."""
    return {
        "optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "clip": 0.0, "validation": 0.0,
        "learning_rate": told.rate, "batch": told.batch, "seed": told.seed,
    }  # fmt: skip


def descent(base: Path, data: Any, out: Path, told: Told, **settings: Any) -> Tuned:
    """A tuning of the base by plain gradient descent."""
    return tune(base, data, out, image="pixels", label="label", device="cpu", **{**settings_of(told), **settings})


def rounds_of(folder: Path, base: Path, files: Mapping[str, Path], weight: float, rounds: int, told: Told) -> Path:
    """The model after rounds of one epoch for each form."""
    columns = {"image": "pixels", "label": "label"}
    config = {
        "model": str(base),
        "tasks": {name.replace(" ", "-"): {"data": str(path), **columns} for name, path in files.items()},
        "rounds": rounds,
        "tune": {**settings_of(told), "epochs": 1},
        "merge": {"method": "task_arithmetic", "coefficients": {"weight": weight}},
    }
    return alternate(config, folder, device="cpu").folder


def write(path: Path, pixels: NDArray[np.uint8], digits: NDArray[np.int64], form: str) -> Path:
    """A file of labelled pictures in one of the forms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for picture, digit in zip(FORMS[form](pixels), digits, strict=True):
            file.write(json.dumps({"pixels": picture.tolist(), "label": str(digit)}) + "\n")
    return path


def processor() -> Any:
    """Makes pixel values, without changing the size."""
    return transformers.ViTImageProcessorPil(do_resize=False, size={"height": SIDE, "width": SIDE})


def inputs(pixels: NDArray[np.uint8], digits: NDArray[np.int64]) -> Items:
    """Pictures as the model takes them."""
    coloured = [np.repeat(picture[:, :, None], 3, axis=2) for picture in np.ascontiguousarray(pixels)]
    return torch.from_numpy(np.stack(processor()(coloured)["pixel_values"])), torch.from_numpy(digits.astype(np.int64))


def weights(folder: Path) -> Weights:
    """The parameters of a model folder."""
    model = transformers.ViTForImageClassification.from_pretrained(folder, dtype="auto")
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def gradient(model: Any, items: Items) -> Weights:
    """Of the mean loss of all items, at the model's weights."""
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(pixel_values=items[0]).logits, items[1])
    torch.autograd.backward(loss)
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def right(model: Any, state: Weights, items: Items) -> float:
    """Accuracy of the model with other weights on one form."""
    with torch.inference_mode():
        logits = torch.func.functional_call(model, state, kwargs={"pixel_values": items[0]}).logits
    return float((logits.argmax(1) == items[1]).double().mean())


def accuracy(model: Any, state: Weights, items: Mapping[str, Items]) -> float:
    """Mean accuracy over the forms."""
    return mean([right(model, state, found) for found in items.values()])


def difference(one: Weights, two: Weights) -> Weights:
    """One minus the other."""
    return added(one, two, -1.0)


def added(one: Weights, two: Weights, factor: float) -> Weights:
    """One plus a multiple of the other."""
    return {name: one[name] + factor * two[name] for name in one}


def flat(state: Weights) -> Tensor:
    """All entries, float64."""
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


def norm(state: Weights) -> float:
    """Euclidean norm of all entries."""
    return float(flat(state).norm())


def cosine(one: Weights, two: Weights) -> float:
    """Cosine of the angle between two models' entries."""
    return float(flat(one) @ flat(two)) / (norm(one) * norm(two))


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return float(np.mean(values))


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean over the seeds, with the lowest and highest."""
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


Table = tuple[list[str], list[list[str]]]


def by_epochs(found: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each length of the tuning."""
    rows = []
    for epochs in found[0]["epochs"]:
        each = [row["epochs"][epochs] for row in found]
        cells = [spread([row[key] for row in each]) for key in ("gradient", "first", "share", "tasks")]
        rows.append([epochs, *cells, spread([row["own"] for row in each], ".3f"),
                     spread([row["merge"]["test"] for row in each], ".3f")])  # fmt: skip
    columns = ["epochs", "cos(τ, −∇L(θ0))", "cos(τ, τ of the first)", "‖τ of the first‖ / ‖τ‖", "cos between tasks"]
    return [*columns, "experts' own accuracy", "best merge"], rows


def by_merge(found: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each way to one model."""
    rows = [["base", spread([mean([*row["base"].values()]) for row in found], ".3f")]]
    rows += [
        [f"one-shot after {epochs} epochs", spread([row["epochs"][epochs]["merge"]["test"] for row in found], ".3f")]
        for epochs in found[0]["epochs"]
    ]
    rows += [["ATM", spread([row["ATM"]["test"] for row in found], ".3f")]]
    rows += [["joint training", spread([row["joint"] for row in found], ".3f")]]
    return ["model", "accuracy"], rows


def page_of(found: Sequence[Mapping[str, Any]]) -> Page:
    """Tables and a figure."""
    page = Page("Task vectors and gradients", (__doc__ or "").partition("\n\n")[0])
    for columns, rows in (by_epochs(found), by_merge(found)):
        page.table(columns, rows)
    epochs = [int(key) for key in found[0]["epochs"]]
    words = {"gradient": "with −∇L(θ0)", "first": "with τ of the first", "tasks": "between tasks"}
    curves = []
    for key, name in words.items():
        values = np.array([[row["epochs"][str(count)][key] for count in epochs] for row in found])
        bounds = {"low": values.min(0).tolist(), "high": values.max(0).tolist()}
        curves.append(Curve(name=name, x=epochs, y=values.mean(0).tolist(), **bounds))
    page.figure(lines("Cosines of task vectors by epochs", curves, x="epochs", y="cosine", log_x=True,
                      caption=f"Mean over {len(found)} seeds, with the lowest and highest."))  # fmt: skip
    return page


if __name__ == "__main__":
    main()
