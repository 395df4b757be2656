"""Two small Llamas trained apart: how high the loss is between them, by what may move before they meet.

    python benchmarks/toolkit/llamas_apart.py --pairs 3 --page llamas.html

Each pair is trained here, on the characters of the Python reference that comes with the interpreter: same text, other
starts and other batches. The second model is then brought onto the first by weight matching, with more and more of its
symmetries, and at last by learning from the loss between both. Losses are in nats per character of text that was kept
from training and from learning. A barrier is the loss halfway less the mean of both ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evomerge.alignment.learned import refine
from evomerge.alignment.spec import Maps, Spec
from evomerge.alignment.specs import folding_of, spec_of
from evomerge.alignment.symmetries import Symmetries
from evomerge.alignment.weight_matching import WeightMatching
from report import Report

CONTEXT = 48
BATCH = 16
Weights = dict[str, Tensor]

SYMMETRIES: dict[str, Symmetries | None] = {
    "nothing": None,
    "heads and hidden units": Symmetries(residual="none", rotations=False),
    "+ permuted stream": Symmetries(residual="permutation", rotations=False),
    "signed stream": Symmetries(residual="signed", rotations=False),
    "signed + turns in heads": Symmetries(residual="signed"),
    "orthogonal stream": Symmetries(residual="orthogonal", rotations=False),
    "orthogonal + turns in heads": Symmetries(residual="orthogonal"),
}
LEARNED = {
    "signed + turns in heads": "signed, then learned inside layers",
    "orthogonal + turns in heads": "orthogonal, then learned",
}
"""What learning starts from, and what the row is called."""


@dataclass(frozen=True)
class Text:
    """Characters as numbers: for training, for learning an alignment, and kept for the table."""

    train: Tensor
    learn: Tensor
    held: Tensor
    size: int

    @classmethod
    def reference(cls) -> Text:
        """The topics of the Python reference, in the order of their names."""
        text = "\n".join(topics[name] for name in sorted(topics))
        alphabet = sorted(set(text))
        numbers = torch.tensor([alphabet.index(letter) for letter in text])
        first, second = int(len(numbers) * 0.8), int(len(numbers) * 0.9)
        return cls(numbers[:first], numbers[first:second], numbers[second:], len(alphabet))


def batches(text: Tensor, seed: int) -> Callable[[], Tensor]:
    """Random stretches of a text, (BATCH, CONTEXT + 1), others at each call."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(CONTEXT + 1)

    def draw() -> Tensor:
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=generator)
        return text[starts + offsets]

    return draw


def config(size: int, tied: bool = True) -> LlamaConfig:
    """Two layers, width 64, four query heads in two groups."""
    return LlamaConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=tied,
        pad_token_id=None,
    )


def loss_of(logits: Tensor, text: Tensor) -> Tensor:
    """Mean cross-entropy of each character but the first."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())


def trained(text: Text, seed: int, steps: int) -> Weights:
    """A model trained from its own start on its own batches."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(text.size))
    draw = batches(text.train, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        drawn = draw()
        loss = loss_of(model(input_ids=drawn).logits, drawn)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return {name: value.detach() for name, value in model.named_parameters()}


class Judge:
    """The loss of any weights, tied or not."""

    def __init__(self, text: Text, stretches: int) -> None:
        self._models = {tied: LlamaForCausalLM(config(text.size, tied)).eval() for tied in (True, False)}
        count = min(stretches, len(text.held) // (CONTEXT + 1))
        self._held = text.held[: count * (CONTEXT + 1)].reshape(count, CONTEXT + 1)

    def __call__(self, weights: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """On one batch, with gradients to the weights."""
        model = self._models["lm_head.weight" not in weights]
        return loss_of(functional_call(model, dict(weights), kwargs={"input_ids": text}).logits, text)

    @torch.no_grad()
    def held(self, weights: Mapping[str, Tensor]) -> float:
        """On the text that was kept."""
        return mean(float(self(weights, part)) for part in self._held.split(128))


def between(one: Mapping[str, Tensor], two: Mapping[str, Tensor], share: float = 0.5) -> Weights:
    """A point on the line."""
    return {name: torch.lerp(value, two[name], share) for name, value in one.items()}


def prepared(model: Weights, symmetries: Symmetries) -> tuple[Weights, Spec]:
    """A model as its spec takes it, folded for an orthogonal stream."""
    settings = config(model["model.embed_tokens.weight"].shape[0]).to_dict()
    shapes = {name: tuple(value.shape) for name, value in model.items()}
    if symmetries.residual == "orthogonal":
        folding = folding_of("llama", shapes, settings)
        shapes, settings = folding.shapes(shapes), {**settings, **folding.config}
        model = {name: folding.tensor(name, model.__getitem__) for name in shapes}
    return model, spec_of("llama", shapes, settings, symmetries)


def moved(spec: Spec, maps: Maps, model: Weights) -> Weights:
    """A model behind maps."""
    return {name: spec.apply(maps, name, value) for name, value in model.items()}


def measure(text: Text, judge: Judge, pair: int, *, train_steps: int, learn_steps: int, report: Report) -> None:
    """Train a pair, and add a row for every way to bring it together."""
    settings = {"train_steps": train_steps, "learn_steps": learn_steps, "pair": pair}
    if report.find(**settings, maps=[*LEARNED.values()][-1]):
        return
    models = [trained(text, 2 * pair + own, train_steps) for own in (0, 1)]
    ends = mean(judge.held(model) for model in models)
    print(f"pair {pair}: ends {', '.join(f'{judge.held(model):.3f}' for model in models)}", file=sys.stderr)

    def add(maps: str, one: Weights, two: Weights, start: float) -> None:
        middle = judge.held(between(one, two))
        row = {"barrier": middle - ends, "middle": middle, "ends": ends, "seconds": time.perf_counter() - start}
        row["own_change"] = abs(judge.held(two) - judge.held(models[1]))
        report.add({**settings, "maps": maps, **row})

    for name, symmetries in SYMMETRIES.items():
        start = time.perf_counter()
        if symmetries is None:
            add(name, models[0], models[1], start)
            continue
        (one, spec), (two, _) = (prepared(model, symmetries) for model in models)
        found = WeightMatching(orders=3).align(spec, [one, two], reference=0, generator=np.random.default_rng(pair))
        add(name, one, moved(spec, found.maps[1], two), start)
        if name in LEARNED:
            draw = batches(text.learn, 1000 + pair)
            refined = refine(
                spec,
                one,
                two,
                found.maps[1],
                lambda weights, draw=draw: judge(weights, draw()),
                steps=learn_steps,
                labels=lambda label, rotated=symmetries.residual == "orthogonal": rotated or label != "residual",
                generator=np.random.default_rng(pair),
            )
            add(LEARNED[name], one, moved(spec, refined.maps, two), start)


def table(report: Report, **settings: int) -> list[tuple[str, ...]]:
    """Mean and deviation over the pairs, a row for each way."""
    found = []
    for name in [*SYMMETRIES, *LEARNED.values()]:
        rows = [row for row in report.rows(**settings) if row["maps"] == name]
        if rows:
            cells = [_spread([row[key] for row in rows]) for key in ("barrier", "middle")]
            changes, seconds = max(row["own_change"] for row in rows), mean(row["seconds"] for row in rows)
            found.append((name, *cells, f"{changes:.0e}", f"{seconds:.1f}"))
    return found


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


COLUMNS = ("what may move", "barrier", "loss halfway", "own loss changes by", "seconds")


def main() -> None:
    """Measure, print the table, draw the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="how many pairs of models")
    parser.add_argument("--train-steps", type=int, default=1000, help="of each model")
    parser.add_argument("--learn-steps", type=int, default=240, help="of each refinement")
    parser.add_argument("--stretches", type=int, default=512, help="of the text that is kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="rows, which are taken over when it exists")
    parser.add_argument("--page", type=Path, help="an HTML page with the table and a figure")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    report, text = Report(given.json), Text.reference()
    judge = Judge(text, given.stretches)
    for pair in range(given.pairs):
        measure(text, judge, pair, train_steps=given.train_steps, learn_steps=given.learn_steps, report=report)
    rows = table(report, train_steps=given.train_steps, learn_steps=given.learn_steps)
    for row in (COLUMNS, *rows):
        print(f"{row[0]:<36}" + "".join(f"{cell:>20}" for cell in row[1:]))
    if given.page is not None:
        draw_page(given.page, rows)


def draw_page(path: Path, rows: list[tuple[str, ...]]) -> None:
    """The table and its barriers as bars."""
    from evomerge.report.figures import bars
    from evomerge.report.page import Page

    page = Page("Two small Llamas trained apart", "Loss in nats per character of text kept from training.")
    page.table(COLUMNS, rows)
    heights = {"barrier": [float(row[1].split(" ")[0]) for row in rows]}
    page.figure(bars("Barrier halfway", [row[0] for row in rows], heights, y="nats per character"))
    page.write(path)


if __name__ == "__main__":
    main()
