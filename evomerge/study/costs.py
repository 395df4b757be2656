"""What answering the items of each split costs, compared with each other."""

from __future__ import annotations

from evomerge.inference.plan import count_work
from evomerge.score.requests import GenerationRequest
from evomerge.study.experiment import Experiment


def split_costs(experiment: Experiment) -> dict[str, float]:
    """What answering each split costs, in that of the search items: by tokens where text is continued, else by items.

    Of text that is generated the longest possible counts.
    """
    benchmark = experiment.benchmark
    sizes = {split: float(len(items)) for split, items in benchmark.splits.items()}
    if experiment.config.benchmark.kind == "lm_eval":
        for split in sizes:
            requests = benchmark.requests(split)
            read = min(work.tokens for work in count_work(requests, experiment.base.config).values())
            written = sum(request.max_tokens for request in requests if isinstance(request, GenerationRequest))
            sizes[split] = float(read + written)
    return {split: size / (sizes["search"] or 1.0) for split, size in sizes.items()}
