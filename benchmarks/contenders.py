"""The ways of scoring a candidate that `benchmarks/scoring.py` compares."""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.cases import CASES, METRICS


class Ours:
    """A worker as a search runs it, with the driver's share of the work."""

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
                "execution": {"cpus_per_worker": options.threads, "device": "cpu"},
            }
        )
        experiment = open_experiment(config)
        self.benchmark = experiment.benchmark
        self.worker = Worker(worker_settings(config, dtype=experiment.dtype))
        self.requests = self.benchmark.requests("search")
        self.worker.add_requests("search", self.requests)
        plan = self.worker._plans["search"]
        self.form, self.tokens = plan.form, dict(plan.tokens)
        self.phases: dict[str, list[float]] = {"materialise": [], "respond": [], "score": []}
        self._template = experiment.template

    def candidate(self, weight: float) -> float:
        """Merge, answer, score."""
        import dataclasses

        from evomerge.execute.base import Answers, Job
        from evomerge.recipe.group import Group

        coefficients = {"weight": {"expert0": weight, "expert1": weight}}
        recipe = dataclasses.replace(self._template, groups=(Group(name="all", coefficients=coefficients),))
        outcome = self.worker.evaluate(Job(number=0, recipe=recipe, split="search"))
        assert isinstance(outcome, Answers), outcome
        start = time.perf_counter()
        table = self.benchmark.score("search", outcome.responses)
        score = self.benchmark.objective.score(self.benchmark.aggregate(table), table.sizes)
        self.phases["score"].append(time.perf_counter() - start)
        for phase in ("materialise", "respond"):
            self.phases[phase].append(outcome.seconds[phase])
        return score


class Stock:
    """lm-eval as it is, on the live model that ours has just merged; task and tokenizer stay loaded."""

    def __init__(self, ours: Ours, folder: Path, case: str) -> None:
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
        from transformers import AutoTokenizer

        self._case = case
        self._manager = TaskManager(include_path=str(folder), include_defaults=False)
        tokenizer = AutoTokenizer.from_pretrained(folder / "base")
        models = {
            batch: HFLM(pretrained=ours.worker._live.model, tokenizer=tokenizer, batch_size=batch)
            for batch in (1, 8, 32)
        }
        timed = {}
        for batch, model in models.items():
            self._model = model
            start = time.perf_counter()
            self.candidate(0.0)
            timed[batch] = time.perf_counter() - start
        self._model = models[min(timed, key=lambda batch: timed[batch])]

    def candidate(self, weight: float) -> float:
        """Evaluate."""
        import lm_eval

        found = lm_eval.simple_evaluate(
            model=self._model, tasks=[self._case], task_manager=self._manager, log_samples=False, verbosity="ERROR"
        )
        return float(found["results"][self._case][METRICS[CASES[self._case]["kind"]]])


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

        # Pydantic refuses some tasks in this field, which no other task of mergekit's declares so narrowly.
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
                "tasks": [{"name": case, "metric": METRICS[CASES[case]["kind"]]}],
                "apply_chat_template": False,
                "fewshot_as_multiturn": False,
            }
        )
        self._genome = ModelGenome(self._config.genome)
        self._options = MergeOptions(
            out_shard_size=1_000_000_000_000, quiet=True, copy_tokenizer=True, safe_serialization=True, device="cpu"
        )
        self._folder = folder / "mergekit"
        self._dtype = options.dtype
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
            model_kwargs={"dtype": self._dtype, "device": "cpu"},
            apply_chat_template=False,
            fewshot_as_multiturn=False,
        )
        return float(found["score"])

    def memory(self, weight: float) -> float:
        """Merge into its live model and evaluate that."""
        return float(self._actor.evaluate_genotype(self._genotype(weight))["score"])


class Bare:
    """Seconds of the forward passes that no scorer can do without, at the bare model's best batch size.

    Every distinct prefix of a request is one token, at the model's speed on rows as long as the median request;
    then the head where an answer is read; then one step of all texts that are still growing, until the longest ends.
    """

    def __init__(self, ours: Ours) -> None:
        from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest

        self._ours = ours
        self._model: Any = ours.worker._live.model
        choices = [one for one in ours.requests if isinstance(one, LogLikelihoodRequest)]
        texts = sorted({one.context + one.continuation[:-1] for one in choices})
        contexts = sorted({one.context for one in ours.requests if isinstance(one, GenerationRequest)})
        self._tokens = distinct(texts) + distinct(contexts)
        self._reads = len(
            {one.context + one.continuation[:end] for one in choices for end in range(len(one.continuation))}
        )
        self._generates = bool(contexts)
        self._length = int(statistics.median(map(len, texts + contexts)))
        counts = [count for count in (1, 2, 4, 8, 16, 32) if count == 1 or count * self._length <= 2048]
        self._rows = min(counts, key=self._per_token)

    def seconds(self) -> float:
        """Measure now."""
        import torch

        head = self._model.get_output_embeddings()
        hidden = torch.zeros(256, head.weight.shape[1], dtype=self._model.dtype)
        with torch.inference_mode():
            total = self._tokens * self._per_token(self._rows) + self._reads * timed(lambda: head(hidden)) / len(hidden)
        if self._generates:
            lengths = generated(self._ours)
            going = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
            times = {count: self._step(count) for count in {_rounded(count) for count in going}}
            total += sum(times[_rounded(count)] for count in going)
        return total

    def _per_token(self, rows: int) -> float:
        import torch

        tokens = torch.full((rows, self._length), 5)
        with torch.inference_mode():
            return timed(lambda: self._model.base_model(input_ids=tokens, use_cache=False)) / tokens.numel()

    def _step(self, rows: int) -> float:
        """One more token of so many texts, on a cache that grows while this is measured."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        step = torch.full((rows, 1), 5)
        settings: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        with torch.inference_mode():
            self._model(input_ids=torch.full((rows, self._length), 5), **settings)
            return timed(lambda: self._model(input_ids=step, **settings))


def _rounded(count: int) -> int:
    """Down to a power of two, so that few batch sizes need measuring; the limit can only get lower."""
    return 1 << (count.bit_length() - 1)


def generated(ours: Ours) -> list[int]:
    """Tokens that the candidate just merged generates for each request."""
    from evomerge.score.requests import GenerationResponse

    responses = ours.worker._resident.respond(ours.worker._plans["search"])
    return [one.tokens for one in responses if isinstance(one, GenerationResponse)]


def distinct(texts: list[tuple[int, ...]]) -> int:
    """Distinct prefixes of sorted texts."""
    from evomerge.inference.trie import common

    shared = sum(common(one, other) for one, other in pairwise(texts))
    return sum(map(len, texts)) - shared


def timed(work: Callable[[], Any], least_s: float = 0.2) -> float:
    """Median seconds of several runs after one."""
    work()
    runs: list[float] = []
    while sum(runs) < least_s or len(runs) < 3:
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)


@dataclass(frozen=True)
class Quiet:
    """Loggers that report every evaluation."""

    names: tuple[str, ...] = ("lm_eval", "mergekit", "lm-eval")

    def __enter__(self) -> None:
        for name in self.names:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *_: Any) -> None: ...
