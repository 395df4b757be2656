"""The ways of scoring a candidate that `scoring.py` compares, and the least that any of them must compute.

A contender is built once for a case; its `candidate` merges with a weight, answers, and returns the score.
Libraries are imported when their contender is built, so that a comparison needs only those that it names.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from cases import CASES


class Ours:
    """A worker as a search runs it, with the driver's share of the work.

    Attributes:
        requests: what a candidate is asked.
        plan: how the worker answers them.
        model: the live model, which holds the last candidate.
        phases: seconds of every candidate so far, by phase.
    """

    def __init__(self, folder: Path, case: str, options: argparse.Namespace) -> None:
        from evomerge.config.config import Config
        from evomerge.execute.settings import worker_settings
        from evomerge.execute.worker import Worker
        from evomerge.study.experiment import open_experiment

        config = Config.from_data(
            {
                "models": {
                    "base": str(folder / "base"),
                    "experts": {name: str(folder / name) for name in ("expert0", "expert1")},
                },
                "merge": {"method": "task_arithmetic"},
                "space": {"granularity": "all"},
                "benchmark": {
                    "tasks": [case],
                    "include_path": str(folder),
                    "splits": {"search": {"split": "test"}, "validation": {"split": "validation"}, "test": "train"},
                    "tie_break": False,
                },
                "execution": {"cpus_per_worker": options.threads, "device": options.device},
            }
        )
        experiment = open_experiment(config)
        self._benchmark = experiment.benchmark
        self._template = experiment.template
        self._worker = Worker(worker_settings(config, dtype=experiment.dtype))
        self.requests = self._benchmark.requests("search")
        self._worker.add_requests("search", self.requests)
        self._resident, self.plan = self._worker._merged.plans["search"]
        self.model: Any = self._worker._merged.live.model
        self.phases: dict[str, list[float]] = {"materialise": [], "respond": [], "score": []}

    def candidate(self, weight: float) -> float:
        """Merge, answer, score."""
        from evomerge.execute.base import Answers, Job
        from evomerge.recipe.group import Group

        coefficients = {"weight": {"expert0": weight, "expert1": weight}}
        recipe = dataclasses.replace(self._template, groups=(Group(name="all", coefficients=coefficients),))
        outcome = self._worker.evaluate(Job(number=0, recipe=recipe, split="search"))
        assert isinstance(outcome, Answers), outcome
        start = time.perf_counter()
        table = self._benchmark.score("search", outcome.responses)
        score = self._benchmark.objective.score(self._benchmark.aggregate(table), table.sizes)
        self.phases["score"].append(time.perf_counter() - start)
        for phase in ("materialise", "respond"):
            self.phases[phase].append(outcome.seconds[phase])
        return float(score)

    def lengths(self) -> list[int]:
        """Tokens that the last candidate generates for each request that asks for text."""
        from evomerge.score.requests import GenerationResponse

        answers = self._resident.respond(self.plan)
        return [one.tokens for one in answers if isinstance(one, GenerationResponse)]


class Stock:
    """lm-eval as it is, on the live model that ours has just merged; task and tokenizer stay loaded."""

    def __init__(self, ours: Ours, folder: Path, case: str) -> None:
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
        from transformers import AutoTokenizer

        self._case = case
        self._manager = TaskManager(include_path=str(folder), include_defaults=False)
        tokenizer = AutoTokenizer.from_pretrained(folder / "base")
        models = {batch: HFLM(pretrained=ours.model, tokenizer=tokenizer, batch_size=batch) for batch in (1, 8, 32)}
        seconds = {}
        for batch, model in models.items():
            self._model = model
            start = time.perf_counter()
            self.candidate(0.0)
            seconds[batch] = time.perf_counter() - start
        self._model = models[min(seconds, key=lambda batch: seconds[batch])]

    def candidate(self, weight: float) -> float:
        """Evaluate; the weight is that of the candidate in the live model already."""
        import lm_eval

        found = lm_eval.simple_evaluate(
            model=self._model, tasks=[self._case], task_manager=self._manager, log_samples=False, verbosity="ERROR"
        )
        return float(found["results"][self._case][CASES[self._case].metric])


class Mergekit:
    """mergekit-evolve's own functions, without Ray around them."""

    def __init__(self, folder: Path, case: str, options: argparse.Namespace) -> None:
        import lm_eval.models
        from lm_eval.tasks import TaskManager

        if find_spec("vllm") is None:
            # mergekit wants lm-eval's vLLM class even where it isn't used.
            stand_in: Any = ModuleType("lm_eval.models.vllm_causallms")
            stand_in.VLLM = type("VLLM", (), {})
            sys.modules[stand_in.__name__] = lm_eval.models.vllm_causallms = stand_in
        from mergekit.evo.actors import InMemoryMergeEvaluator
        from mergekit.graph import Task
        from mergekit.io.tasks import ReturnTensor

        # Pydantic refuses some tasks in this field, which no other task of mergekit's declares so strictly.
        ReturnTensor.model_fields["tensor_task"].annotation = Task
        ReturnTensor.model_rebuild(force=True)
        from mergekit.evo.config import EvolMergeConfiguration
        from mergekit.evo.genome import ModelGenome
        from mergekit.options import MergeOptions

        self._config = EvolMergeConfiguration.model_validate(
            {
                "genome": {
                    "models": [str(folder / "expert0"), str(folder / "expert1")],
                    "base_model": str(folder / "base"),
                    "merge_method": "task_arithmetic",
                    "normalize": False,
                },
                "tasks": [{"name": case, "metric": CASES[case].metric}],
                "apply_chat_template": False,
                "fewshot_as_multiturn": False,
            }
        )
        self._genome = ModelGenome(self._config.genome)
        self._options = MergeOptions(
            out_shard_size=1_000_000_000_000,
            quiet=True,
            copy_tokenizer=True,
            safe_serialization=True,
            device=options.device,
        )
        self._folder = folder / "mergekit"
        self._kept_on = {"dtype": options.dtype, "device": options.device}
        self._manager = TaskManager(include_path=str(folder), include_defaults=False)
        actor: Any = InMemoryMergeEvaluator
        self._actor = actor.__ray_metadata__.modified_class(
            self._config, self._genome, self._options, model_storage_path=str(self._folder), task_manager=self._manager
        )

    def _genotype(self, weight: float) -> Any:
        genotype = self._genome.initial_genotype()
        genotype[..., 0] = weight
        return genotype

    def disk(self, weight: float) -> float:
        """Merge to a folder, evaluate it with lm-eval in batches of 8, delete it."""
        from mergekit.evo.helpers import evaluate_model, merge_model

        path = merge_model(self._genotype(weight), self._genome, str(self._folder), self._options)
        found = evaluate_model(
            path,
            self._config.tasks,
            num_fewshot=None,
            limit=None,
            vllm=False,
            batch_size=8,
            task_manager=self._manager,
            model_kwargs=self._kept_on,
            apply_chat_template=False,
            fewshot_as_multiturn=False,
        )
        return float(found["score"])

    def memory(self, weight: float) -> float:
        """Merge into its live model and evaluate that."""
        return float(self._actor.evaluate_genotype(self._genotype(weight))["score"])


class Bare:
    """Seconds of the forward passes that no scorer can do without, at the bare model's best batch size.

    Every distinct prefix of a request is one token, at the model's speed on rows as long as the median request; then
    the output layer where an answer is read; then one step of all texts that are still growing, until the longest ends.
    """

    def __init__(self, ours: Ours) -> None:
        from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest

        self._ours = ours
        self._model = ours.model
        choices = [one for one in ours.requests if isinstance(one, LogLikelihoodRequest)]
        texts = sorted({one.context + one.continuation[:-1] for one in choices})
        contexts = sorted({one.context for one in ours.requests if isinstance(one, GenerationRequest)})
        self._num_tokens = distinct_prefixes(texts) + distinct_prefixes(contexts)
        self._num_read = len(
            {one.context + one.continuation[:end] for one in choices for end in range(len(one.continuation))}
        )
        self._generates = bool(contexts)
        self._length = int(statistics.median(map(len, texts + contexts)))
        counts = [count for count in (1, 2, 4, 8, 16, 32) if count == 1 or count * self._length <= 2048]
        self._rows = min(counts, key=self._token_s)

    def seconds(self) -> float:
        """Measure now."""
        import torch

        output_layer = self._model.get_output_embeddings()
        hidden = torch.zeros(256, output_layer.weight.shape[1], dtype=self._model.dtype, device=self._model.device)
        with torch.inference_mode():
            read_s = timed(lambda: output_layer(hidden)) / len(hidden)
            total_s = self._num_tokens * self._token_s(self._rows) + self._num_read * read_s
        if self._generates:
            lengths = self._ours.lengths()
            growing = [_rounded(sum(length > step for length in lengths)) for step in range(1, max(lengths))]
            step_s = {count: self._step_s(count) for count in set(growing)}
            total_s += sum(step_s[count] for count in growing)
        return total_s

    def operations(self) -> float:
        """Floating-point operations of the matrix products behind `seconds`: two for each weight and token."""
        head = self._model.get_output_embeddings().weight.numel()
        layers = sum(one.numel() for one in self._model.base_model.layers.parameters() if one.dim() == 2)
        steps = sum(self._ours.lengths()) if self._generates else 0
        return 2.0 * ((self._num_tokens + steps) * layers + (self._num_read + steps) * head)

    def matrix_rate(self) -> float:
        """Operations that the device does in a second in products as large as the model's, of many rows."""
        import torch

        weight = self._model.base_model.layers[0].mlp.up_proj.weight
        states = torch.ones(2048, weight.shape[1], dtype=weight.dtype, device=weight.device)
        with torch.inference_mode():
            return 2.0 * len(states) * weight.numel() / timed(lambda: torch.nn.functional.linear(states, weight))

    def _token_s(self, rows: int) -> float:
        """Seconds for a token in a pass of so many rows."""
        import torch

        tokens = torch.full((rows, self._length), 5, device=self._model.device)
        with torch.inference_mode():
            return timed(lambda: self._model.base_model(input_ids=tokens, use_cache=False)) / tokens.numel()

    def _step_s(self, rows: int) -> float:
        """Seconds for one more token of so many texts, on a cache that grows while this is measured."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        prompt = torch.full((rows, self._length), 5, device=self._model.device)
        settings: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        with torch.inference_mode():
            self._model(input_ids=prompt, **settings)
            return timed(lambda: self._model(input_ids=prompt[:, :1], **settings))


def _rounded(count: int) -> int:
    """Down to a power of two, so that few batch sizes need measuring; the limit can only get lower."""
    return 1 << (count.bit_length() - 1)


def distinct_prefixes(texts: list[tuple[int, ...]]) -> int:
    """How many distinct prefixes sorted texts have."""
    from evomerge.inference.trie import common

    return sum(map(len, texts)) - sum(common(one, other) for one, other in pairwise(texts))


def timed(work: Callable[[], Any], least_s: float = 0.2) -> float:
    """Median seconds of several runs, after one that warms up."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    work()
    runs: list[float] = []
    while sum(runs) < least_s or len(runs) < 3:
        wait()
        start = time.perf_counter()
        work()
        wait()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)
