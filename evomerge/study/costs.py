"""What answering the items of each split costs, compared with each other."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.execute.settings import worker_settings
from evomerge.inference.plan import Work, count_work
from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest
from evomerge.study.experiment import Experiment


def split_costs(experiment: Experiment, references: Sequence[LogLikelihoodRequest]) -> dict[str, float]:
    """What answering each split costs, in that of the search items: by tokens where text is continued, else by items.

    Of text that is generated the longest possible counts.

    Args:
        experiment: whose items are answered.
        references: reference answers that are asked for beside the search items, whose cost includes theirs.
    """
    benchmark = experiment.benchmark
    sizes = {split: float(len(items)) for split, items in benchmark.splits.items()}
    if experiment.config.benchmark.kind == "lm_eval":
        for split in sizes:
            requests = benchmark.requests(split)
            read = min(work.tokens for work in count_work(requests, experiment.base.config).values())
            written = sum(request.max_tokens for request in requests if isinstance(request, GenerationRequest))
            sizes[split] = float(read + written)
        if references:
            sizes["search"] += min(work.tokens for work in count_work(references, experiment.base.config).values())
    return {split: size / (sizes["search"] or 1.0) for split, size in sizes.items()}


def search_tokens(experiment: Experiment) -> dict[str, Work]:
    """What answering all search items takes, by form; empty where a model isn't asked to continue text."""
    if experiment.config.benchmark.kind != "lm_eval":
        return {}
    benchmark, search = experiment.benchmark, experiment.config.search
    blocks = None
    if search.block is not None and (search.items == "fixed" or search.pruner != "none"):
        # Otherwise they are answered in one go.
        blocks = [benchmark.places("search", items) for items in benchmark.blocks("search", search.block)]
    settings = worker_settings(experiment.config, dtype=experiment.dtype)
    place, budget = settings.device.partition(":")[0], settings.batch_tokens
    requests, config = benchmark.requests("search"), experiment.base.config
    work = count_work(requests, config, blocks=blocks, device=place, budget=budget)
    return {str(form): one for form, one in work.items()}
