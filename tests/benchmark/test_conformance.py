"""The laws of benchmarks, over every kind, with made-up answers of the right form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.benchmark import BENCHMARKS, SPLITS, Benchmark, build_benchmark
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.score.requests import (
    ClassificationRequest,
    ClassificationResponse,
    FunctionRequest,
    FunctionResponse,
    GenerationRequest,
    GenerationResponse,
    LogLikelihoodResponse,
    Request,
    Response,
)
from evomerge.testing import benchmark_laws as laws
from helpers.classifiers import LABELS, write_family, write_images, write_texts
from helpers.search import write_task

KINDS = ("lm_eval", "text", "image", "function", "function_lower")
Build = Callable[..., Benchmark]


@pytest.fixture(scope="module")
def builders(tmp_path_factory: pytest.TempPathFactory, tiny_llama: dict[str, Path]) -> dict[str, Build]:
    folder = tmp_path_factory.mktemp("kinds")
    write_texts(folder / "texts.csv")
    write_images(folder / "images.jsonl")
    write_task(folder / "tasks")
    (folder / "lengths.py").write_text(
        "def items():\n    return list(range(20))\n\n\ndef f(model, items):\n    return items\n"
    )
    texts = {"data": str(folder / "texts.csv"), "text": "sentence", "metric": "macro_f1"}
    images = {"data": str(folder / "images.jsonl"), "image": "pixels"}
    function = {"call": "lengths:f", "folder": str(folder)}
    models = {"text": write_family(folder, "distilbert")["base"], "image": write_family(folder, "vit")["base"]}
    settings: dict[str, dict[str, Any]] = {
        "lm_eval": {"tasks": ["tiny_choice"], "include_path": str(folder / "tasks")},
        "text": {"labels": texts},
        "image": {"labels": images},
        "function": {"function": function},
        "function_lower": {"function": {**function, "higher_is_better": False}},
    }

    def builder(kind: str) -> Build:
        model = Checkpoint.open(models.get(kind, tiny_llama["base"]))

        def build(splits: dict[str, float] | None = None) -> Benchmark:
            config = BenchmarkConfig.model_validate({**settings[kind], "splits": splits or {}})
            return build_benchmark(config, model, splits=tuple(splits or SPLITS))

        return build

    return {kind: builder(kind) for kind in settings}


@pytest.fixture(scope="module", params=KINDS)
def build(request: pytest.FixtureRequest, builders: dict[str, Build]) -> Build:
    return builders[request.param]


@pytest.fixture(scope="module")
def benchmark(build: Build) -> Benchmark:
    return build()


def answered(benchmark: Benchmark) -> laws.Answer:
    """Answers of a model that knows nothing, the same each time."""

    def answer(request: Request, generator: np.random.Generator) -> Response:
        if isinstance(request, ClassificationRequest):
            shares = generator.dirichlet(np.ones(len(LABELS)))
            return ClassificationResponse(tuple(np.log(shares).tolist()))
        if isinstance(request, FunctionRequest):
            return FunctionResponse(float(generator.normal()))
        if isinstance(request, GenerationRequest):
            return GenerationResponse("three", 1)
        return LogLikelihoodResponse(-float(generator.exponential()), False)

    def answers(split: str) -> list[Response]:
        generator = np.random.default_rng(1)
        return [answer(request, generator) for request in benchmark.requests(split)]

    return answers


def test_every_kind_is_tried_here(builders: dict[str, Build]) -> None:
    assert set(BENCHMARKS.names()) == {"lm_eval", "labels", "function"}


def test_splits_are_disjoint_and_not_empty(benchmark: Benchmark) -> None:
    laws.splits_are_disjoint_and_not_empty(benchmark)


def test_splits_hold_every_item_once(build: Build) -> None:
    quarters = {"search": 0.5, "validation": 0.25, "test": 0.25}
    whole = build({"test": 1.0})
    laws.splits_hold_every_item_once(build(quarters), whole)
    lost, twice = build(quarters), build(quarters)
    lost.splits["search"] = lost.splits["search"][1:]
    twice.splits["test"] = (*twice.splits["test"], twice.splits["search"][0])
    for broken in (lost, twice):
        with pytest.raises(AssertionError):
            laws.splits_hold_every_item_once(broken, whole)


def test_building_again_gives_the_same_items(build: Build) -> None:
    laws.building_again_gives_the_same_items(build)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_blocks_hold_every_item_and_request_once(benchmark: Benchmark, size: int) -> None:
    laws.blocks_hold_every_item_and_request_once(benchmark, size)


def test_scores_do_not_depend_on_blocks(benchmark: Benchmark) -> None:
    laws.scores_do_not_depend_on_blocks(benchmark, answered(benchmark), 4)


def test_a_table_survives_being_stored(benchmark: Benchmark) -> None:
    laws.table_survives_being_stored(benchmark, answered(benchmark))


def test_samples_have_the_value_of_the_aggregate(benchmark: Benchmark) -> None:
    laws.samples_have_the_value_of_the_aggregate(benchmark, answered(benchmark))


def test_the_description_names_what_is_searched_by(benchmark: Benchmark) -> None:
    laws.description_names_what_is_searched_by(benchmark)
