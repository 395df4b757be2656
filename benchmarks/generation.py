"""Generating texts on a CPU: rows in fixed slots beside rows whose cache grows.

    python benchmarks/generation.py --repeats 5

A random Llama in the shape of SmolLM-135M with fewer layers continues random tokens. Both take turns, on the same
requests; times are of the processor, so that other work on the machine shows less. The texts must be equal.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.inference.resident import ResidentModel
from evomerge.score.requests import GenerationRequest, Request
from evomerge.testing.models import tiny_tokenizer

VOCABULARY = 8000


class Case(NamedTuple):
    """So many prompts, with a head of `shared` tokens and an end of `shortest` to `longest`, and tokens to make."""

    prompts: int
    shared: int
    shortest: int
    longest: int
    most: int

    def requests(self) -> list[Request]:
        """No prompt is ended by a stop string; a third to all of the tokens are made."""
        draw = random.Random(0)

        def text(length: int) -> tuple[int, ...]:
            return tuple(draw.randrange(5, 380) for _ in range(length))

        head = text(self.shared)
        return [
            GenerationRequest(
                head + text(draw.randrange(self.shortest, self.longest)), (), draw.randrange(self.most // 3, self.most)
            )
            for _ in range(self.prompts)
        ]


CASES = {
    "40 prompts of 20 to 60 tokens": Case(40, 0, 20, 60, 40),
    "40 prompts of 50 to 300": Case(40, 0, 50, 300, 40),
    "100 prompts of 5 to 40, in 64 rows": Case(100, 0, 5, 40, 24),
    "24 prompts that share 400": Case(24, 400, 10, 60, 32),
    "one prompt": Case(1, 0, 60, 61, 60),
}


def main() -> None:
    """Measure, and print seconds of the processor with their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=asked.layers,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=2048, initializer_range=0.05,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    print("| | growing, s | fixed slots, s | growing ÷ fixed, least to most |")
    print("|---|---|---|---|")
    for name, case in CASES.items():
        engine = ResidentModel(model, tiny_tokenizer(), device=torch.device("cpu"))
        generator, plan = engine._generator, engine.plan(case.requests())
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(asked.repeats):
            answers = {}
            for fixed in (True, False) if number % 2 else (False, True):
                generator.uses_slots = fixed
                start = time.process_time()
                answers[fixed] = engine.respond(plan)
                times[fixed].append(time.process_time() - start)
            assert answers[True] == answers[False]
        ratios = sorted(growing / fixed for growing, fixed in zip(times[False], times[True], strict=True))
        middle, least, most = statistics.median(ratios), ratios[0], ratios[-1]
        grows, stays = (statistics.median(times[fixed]) for fixed in (False, True))
        print(f"| {name} | {grows:.2f} | {stays:.2f} | {middle:.2f}, {least:.2f} to {most:.2f} |", flush=True)


if __name__ == "__main__":
    main()
