"""What most commands import, imported once, as the command line imports it: with the libraries kept quiet."""

from importlib import import_module

from evomerge.cli.guard import quiet_libraries

quiet_libraries([])

for name in (
    "cma",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
    "rich.live",
    "rich.progress",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "evomerge.algorithms.cma_es",
    "evomerge.benchmark.lm_eval.benchmark",
    "evomerge.cli",
    "evomerge.execute.inline",
    "evomerge.inference.live",
    "evomerge.inference.resident",
    "evomerge.kernels.loops",
    "evomerge.materialise.merger",
    "evomerge.report",
    "evomerge.study.check",
    "evomerge.study.search",
    "evomerge.tuning.tune",
):
    import_module(name)

# transformers makes this table when a first model is loaded.
import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")
