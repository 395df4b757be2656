"""What a run's models are asked of an item, as text: made anew from the benchmark, since a run records no prompts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from evomerge.models.open import as_family, open_each
from evomerge.report.items_won import Question
from evomerge.run.directory import Run
from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest
from evomerge.study.experiment import open_benchmark


def questions(run: Run, split: str, wanted: Collection[str]) -> dict[str, Question]:
    """What is asked of some items, by their identity; those that ask nothing in text are left out.

    Args:
        run: its models and data still have to be where its config says.
        split: of the items.
        wanted: identities of items.

    Raises: EvomergeError if models or data aren't there any more.
    """
    where, sources = str(run.directory / "config.yaml"), run.opened_config.models.sources()
    base = as_family(open_each(sources), replace(sources, align=None)).base
    benchmark = open_benchmark(run.opened_config, base, where=where, splits=(split,))
    requests, tokenizer = benchmark.requests(split), base.tokenizer()
    found = {}
    for position, item in enumerate(benchmark.splits[split]):
        if item.id not in wanted:
            continue
        asked = [requests[place] for place in benchmark.places(split, [position])]
        text = [one for one in asked if isinstance(one, GenerationRequest | LogLikelihoodRequest)]
        if text:
            choices = [one.continuation for one in text if isinstance(one, LogLikelihoodRequest)]
            found[item.id] = Question(
                prompt=tokenizer.decode(text[0].context, skip_special_tokens=True),
                choices=tuple(tokenizer.decode(tokens) for tokens in choices),
            )
    return found
