"""Generating texts: rows in fixed slots beside rows whose cache grows.

    python benchmarks/generation.py --repeats 5
    python benchmarks/generation.py --size 8B --layers 32 --device cuda --dtype bfloat16

A random Llama, by default in the shape of SmolLM-135M with fewer layers, continues random tokens. Both take turns, on
the same requests. On a CPU times are of the processor, so that other work on the machine shows less, and the texts must
be equal; on a GPU, where fixed slots run as captured graphs, times are by the clock, there is a larger case besides,
and texts that roundings make differ are counted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from candidate import SIZES
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
LARGE = {"250 prompts of 300 to 500": Case(250, 0, 300, 500, 256)}


def main() -> None:
    """Measure, and print seconds of the processor with their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="100M")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    asked = parser.parse_args()
    is_cpu = asked.device == "cpu"
    clock = time.process_time if is_cpu else time.perf_counter
    torch.set_num_threads(1)
    model = made_up(asked)
    print("| | growing, s | fixed slots, s | growing ÷ fixed, least to most | texts that differ |")
    print("|---|---|---|---|---|")
    for name, case in (CASES if is_cpu else CASES | LARGE).items():
        engine = ResidentModel(model, tiny_tokenizer(), device=torch.device(asked.device))
        generator, plan = engine._generator, engine.plan(case.requests())
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(asked.repeats):
            answers = {}
            for fixed in (True, False) if number % 2 else (False, True):
                generator.uses_slots = fixed
                start = clock()
                answers[fixed] = engine.respond(plan)
                times[fixed].append(clock() - start)
            differ = sum(one != other for one, other in zip(answers[True], answers[False], strict=True))
            assert not (is_cpu and differ)
        ratios = sorted(growing / fixed for growing, fixed in zip(times[False], times[True], strict=True))
        middle, least, most = statistics.median(ratios), ratios[0], ratios[-1]
        grows, stays = (statistics.median(times[fixed]) for fixed in (False, True))
        print(
            f"| {name} | {grows:.2f} | {stays:.2f} | {middle:.2f}, {least:.2f} to {most:.2f} | {differ} |", flush=True
        )


def made_up(asked: argparse.Namespace) -> LlamaForCausalLM:
    """A random model of the size asked for, on the device."""
    torch.manual_seed(0)
    size = SIZES[asked.size]
    config = LlamaConfig(
        vocab_size=max(VOCABULARY, size.vocabulary), hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=asked.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads // size.groups,
        max_position_embeddings=2048, initializer_range=0.05,
    )  # fmt: skip
    with torch.device(asked.device):
        model = LlamaForCausalLM._from_config(config, dtype=getattr(torch, asked.dtype))
    return model.eval()


if __name__ == "__main__":
    main()
