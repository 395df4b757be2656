"""Short prompts with answers of a token or two: our passes beside lm-eval's own model class, and beside full batches.

    python benchmarks/short_prompts.py --layers 30 --prompts 100 --repeats 3

A random Llama in the shape of SmolLM-135M answers requests made of random tokens. Contenders take turns; times are
of the processor, so that other work on the machine shows less.

    ours       the cheapest form, in passes that are cheapest by lengths
    full       the form with the fewest tokens, longest rows first, as many in a pass as the budget holds
    stock      lm-eval's HFLM on the same requests, at its best batch size of 1, 8 and 32
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.inference import forward
from evomerge.inference.batches import Costs
from evomerge.inference.plan import FORMS, work_of
from evomerge.inference.resident import ResidentModel
from evomerge.score.requests import LogLikelihoodRequest
from evomerge.testing.models import tiny_tokenizer


def main() -> None:
    """Measure, and print seconds of the processor with their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--prompts", type=int, default=100, help="with four answers each")
    parser.add_argument("--branching", type=float, default=0.05, help="share of prompts with answers of two tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = LlamaConfig(vocab_size=4096, num_hidden_layers=options.layers, **shape)
    model: Any = LlamaForCausalLM(config).eval().to(getattr(torch, options.dtype))
    requests = made_up(options.prompts, options.branching)
    contenders = {"ours": ours(model, requests), "full": full(model, requests), **stock(model, requests)}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    answers = {name: contender() for name, contender in contenders.items()}
    for _ in range(options.repeats):
        for name, contender in contenders.items():
            start = time.process_time()
            contender()
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    for name, median in medians.items():
        apart = max(abs(one - other) for one, other in zip(answers[name], answers["ours"], strict=True))
        print(
            f"{name:9} {median:7.2f} s, {median / medians['ours']:.2f} of ours; answers within {apart:.1e}", flush=True
        )


def made_up(prompts: int, branching: float) -> list[LogLikelihoodRequest]:
    """Prompts of 4 to 24 tokens, mostly short, each with four answers of one token, or of two."""
    generator = random.Random(0)
    found = []
    for _ in range(prompts):
        length = min(24, 4 + int(generator.expovariate(0.2)))
        context = tuple(generator.randrange(5, 4000) for _ in range(length))
        answer = 2 if generator.random() < branching else 1
        found += [LogLikelihoodRequest(context, tuple(generator.sample(range(5, 4000), answer))) for _ in range(4)]
    return found


def ours(model: Any, requests: Sequence[LogLikelihoodRequest]) -> Callable[[], list[float]]:
    """As a worker answers."""
    resident = ResidentModel(model, tiny_tokenizer(), device="cpu")
    plan = resident.plan(requests)
    work = work_of(plan, Costs.of(model.config.to_dict(), "cpu"), 1024)
    print(f"{plan.form}, tokens {dict(plan.tokens)}, {work.padded} with padding")
    return lambda: [answer.log_probability for answer in resident.respond(plan)]  # type: ignore[union-attr]


def full(model: Any, requests: Sequence[LogLikelihoodRequest]) -> Callable[[], list[float]]:
    """In batches that are as full as the budget lets them be."""
    resident = ResidentModel(model, tiny_tokenizer(), device="cpu")
    plan = min((resident.plan(requests, form=form) for form in FORMS), key=lambda plan: plan.tokens[plan.form])

    def batches(rows: Sequence[Any], budget: int, costs: Costs) -> list[list[Any]]:
        found, start = [], 0
        while start < len(rows):
            count = max(1, budget // rows[start].length)
            found.append([*rows[start : start + count]])
            start += count
        return found

    def respond() -> list[float]:
        kept, forward.batches = forward.batches, batches
        try:
            return [answer.log_probability for answer in resident.respond(plan)]  # type: ignore[union-attr]
        finally:
            forward.batches = kept

    rows = plan.blocks[0].rows
    padded = sum(len(batch) * batch[0].length for batch in batches(rows, 1024, Costs()))
    print(f"full: {plan.form}, {padded} with padding")
    return respond


def stock(model: Any, requests: Sequence[LogLikelihoodRequest]) -> dict[str, Callable[[], list[float]]]:
    """lm-eval's class, given tokens."""
    asked = [
        ((str(number // 4), str(number)), [*one.context], [*one.continuation]) for number, one in enumerate(requests)
    ]
    found = {}
    for batch in (1, 8, 32):
        language = HFLM(pretrained=model, tokenizer=tiny_tokenizer(), batch_size=batch)
        found[f"stock {batch}"] = lambda language=language: [  # type: ignore[misc]
            float(value) for value, _ in language._loglikelihood_tokens(asked, disable_tqdm=True)
        ]
    return found


if __name__ == "__main__":
    main()
