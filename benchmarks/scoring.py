"""What a candidate costs to score, against lm-eval, mergekit-evolve and the model's own forward passes.

    python benchmarks/scoring.py --sizes 1M 50M --cases choice0 choice5 generate --repeats 5 --json scoring.json

Random Llama models and local lm-eval tasks are made in a temporary folder. Each repeat is one candidate with
coefficients of its own, which every contender merges and scores in turn, so that they share the machine's mood:

    ours       merge in place, answer, score per item
    stock      lm_eval.simple_evaluate with its HFLM on our live model, at its best batch size (no merge)
    disk       mergekit-evolve's functions: merge to a folder, lm-eval on it, delete it (mergekit.evo.helpers)
    memory     mergekit-evolve's in-memory actor class, called in this process (bfloat16, as it is written)
    limit      every distinct prefix of the requests once, at the bare model's best speed per token

Ratios are medians over repeats of what the contender took over what ours took in the same repeat.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from candidate import SIZES, machine, write_models

CASES = {
    "choice0": {"kind": "choice", "shots": 0},
    "choice5": {"kind": "choice", "shots": 5},
    "choice5_same": {"kind": "choice", "shots": 5, "sampler": "first_n"},
    "generate": {"kind": "generate", "shots": 0},
    "generate5_same": {"kind": "generate", "shots": 5, "sampler": "first_n"},
}
"""lm-eval draws other examples for each question unless the task says `sampler: first_n`, as the `same` ones do."""

CONTENDERS = ("stock", "disk", "memory", "limit")


def main() -> None:
    """Measure each size and case, print a line each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1M", "50M"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--against", nargs="*", choices=CONTENDERS, default=["stock", "disk", "limit"])
    parser.add_argument("--items", type=int, default=40, help="questions, with four choices each")
    parser.add_argument("--words", type=int, default=20, help="words of a question")
    parser.add_argument("--new-tokens", type=int, default=32, help="most tokens generated for a question")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = machine()
    print(
        f"{about['cpu']}, {about['cores']} cores, {options.threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"{options.dtype}, {about['versions']}; {options.items} questions, {options.repeats} repeats",
        flush=True,
    )
    results = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_models(Path(folder), ["base", "expert0", "expert1"], SIZES[size], options.dtype)
            for case in options.cases:
                results.append(measure(size, case, options, Path(folder)))
                print(line(results[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=2) + "\n")


def measure(size: str, case: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One size and case: every contender on the same candidates."""
    write_task(folder, case, options)
    ours = Ours(folder, case, options)
    contenders: dict[str, Callable[[float], Any]] = {"ours": ours.candidate}
    if "stock" in options.against:
        contenders["stock"] = Stock(ours, folder, case).candidate
    if {"disk", "memory"} & set(options.against):
        mergekit = Mergekit(folder, case, options)
        contenders |= {name: getattr(mergekit, name) for name in ("disk", "memory") if name in options.against}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    scores: dict[str, list[float]] = {name: [] for name in contenders}
    bare = Bare(ours) if "limit" in options.against else None
    limits: list[float] = []
    for repeat in range(-1, options.repeats):
        weight = 0.2 + 0.1 * repeat
        for name, contender in contenders.items():
            gc.collect()
            start = time.perf_counter()
            score = contender(weight)
            took = time.perf_counter() - start
            if repeat >= 0:  # the first candidate warms up
                seconds[name].append(took)
                scores[name].append(score)
        if bare is not None and repeat >= 0:
            limits.append(bare.seconds())
    ours.phases = {name: values[1:] for name, values in ours.phases.items()}
    result = {"size": size, "case": case, "form": ours.form, "tokens": ours.tokens, "seconds": seconds}
    return result | {"phases": ours.phases, "scores": scores, "limit": limits}


class Ours:
    """A worker as a search runs it, with the driver's share of the work."""

    def __init__(self, folder: Path, case: str, options: argparse.Namespace) -> None:
        from evomerge.config import Config
        from evomerge.execute import worker_settings
        from evomerge.preflight import open_benchmark, open_experiment
        from evomerge.worker import Worker

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
        self.benchmark = open_benchmark(experiment)
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
        from evomerge.recipe import Group

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
    from evomerge.score.plan import common

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


METRICS = {"choice": "acc,none", "generate": "exact_match,none"}


def write_task(folder: Path, case: str, options: argparse.Namespace) -> None:
    """A local lm-eval task; mergekit and ours read its test split."""
    generator = random.Random(0)
    words = ["goat", "river", "book", "rain", "market", "three", "four", "school", "morning", "sea", "hill"]
    splits = {"train": 8, "validation": 8, "test": options.items}
    for split, count in splits.items():
        with (folder / f"{split}.jsonl").open("w") as file:
            for number in range(count):
                length = generator.randint(options.words // 2, options.words * 3 // 2)
                question = f"{split} {number} " + " ".join(generator.choices(words, k=length))
                choices = [" ".join(generator.choices(words, k=2)) for _ in range(4)]
                file.write(json.dumps({"question": question, "choices": choices, "answer": number % 4}) + "\n")
    settings = CASES[case]
    task = {
        "task": case,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder / f"{split}.jsonl") for split in splits}},
        "training_split": "train",
        "validation_split": "validation",
        "test_split": "test",
        "fewshot_split": "train",
        "num_fewshot": settings["shots"],
        "doc_to_text": "Question: {{question}} Answer:",
        "metadata": {"version": 1.0},
    }
    if "sampler" in settings:
        task["fewshot_config"] = {"sampler": settings["sampler"]}
    if settings["kind"] == "choice":
        task |= {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    else:
        task |= {
            "output_type": "generate_until",
            "doc_to_target": "{{choices[answer]}}",
            "generation_kwargs": {"until": ["\n", "m"], "max_gen_toks": options.new_tokens, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }
    (folder / f"{case}.yaml").write_text(json.dumps(task))


def line(result: dict[str, Any]) -> str:
    """Seconds of ours by phase, then each contender's with its ratio to ours."""
    seconds = result["seconds"]
    phases = " + ".join(f"{name} {statistics.median(values):.3f}" for name, values in result["phases"].items())
    parts = [
        f"{result['size']} {result['case']} ({result['form']}, tokens {result['tokens']}): "
        f"ours {spread(seconds['ours'])} = {phases}"
    ]
    for name, values in seconds.items():
        if name == "ours":
            continue
        # lm-eval on the live model has nothing to merge.
        own = (
            [a + b for a, b in zip(result["phases"]["respond"], result["phases"]["score"], strict=True)]
            if name == "stock"
            else seconds["ours"]
        )
        ratio = statistics.median(other / mine for other, mine in zip(values, own, strict=True))
        parts.append(f"{name} {spread(values)}, ratio {ratio:.1f}")
    if result["limit"]:
        shares = [own / least for own, least in zip(result["phases"]["respond"], result["limit"], strict=True)]
        parts.append(f"limit {spread(result['limit'])}, respond is {statistics.median(shares):.2f} of it")
    return "; ".join(parts)


def spread(values: list[float]) -> str:
    """Median with the lowest and highest."""
    return f"{statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"


@dataclass(frozen=True)
class _Quiet:
    """Loggers that report every evaluation."""

    names: tuple[str, ...] = ("lm_eval", "mergekit", "lm-eval")

    def __enter__(self) -> None:
        for name in self.names:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *_: Any) -> None: ...


if __name__ == "__main__":
    for variable in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    with _Quiet():
        main()
