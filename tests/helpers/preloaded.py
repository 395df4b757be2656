"""What most commands import, imported once, as the command line imports it: with the libraries kept quiet."""

from importlib import import_module

from evomerge.cli.guard import quiet_libraries

quiet_libraries([])

for name in (
    "cma",
    "lm_eval.evaluator",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "evomerge.study.search",
    "evomerge.tuning.tune",
):
    import_module(name)
