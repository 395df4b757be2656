"""Item scores and log-likelihoods equal those of lm-eval's own evaluation with its own model class."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.benchmark.lm_eval.benchmark import Benchmark
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.inference.batches import Costs
from evomerge.inference.resident import ResidentModel
from evomerge.score.requests import LogLikelihoodResponse
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stock_results_alone")]

WORDS = (
    *("goat", "river", "book", "rain", "market", "three", "four", "school", "morning", "sea", "hill", "town"),
    *("mto", "vitabu", "mvua", "ọmọ", "niños"),
)

SHARED: dict[str, Any] = {
    "dataset_path": "json",
    "validation_split": "validation",
    "test_split": "test",
    "fewshot_split": "validation",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "metadata": {"version": 1.0},
}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
TASKS: dict[str, dict[str, Any]] = {
    "choice": CHOICE,
    "choice_3shot": {**CHOICE, "num_fewshot": 3},
    "choice_empty_context": {**CHOICE, "doc_to_text": "", "target_delimiter": ""},
    "likelihood": {
        "output_type": "loglikelihood",
        "doc_to_target": " {{choices[answer]}} and so on",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question * 12}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "generate": {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False},
        "filter_list": [
            {"name": "plain", "filter": [{"function": "take_first"}]},
            {
                "name": "letters",
                "filter": [{"function": "regex", "regex_pattern": "([a-z]+)"}, {"function": "take_first"}],
            },
        ],
        "metric_list": [{"metric": "exact_match", "ignore_case": True}],
    },
}

# The same examples before every question.
FIRST_SHOTS = {"num_fewshot": 6, "fewshot_config": {"sampler": "first_n"}}
TASKS_WITH_HEADS: dict[str, dict[str, Any]] = {
    "choice_6first": {**CHOICE, **FIRST_SHOTS},
    "generate_6first": {**TASKS["generate"], **FIRST_SHOTS},
}


def write_tasks(folder: Path, *, items: int = 14) -> Path:
    generator = random.Random(3)
    files = {}
    for split in ("validation", "test"):
        path = folder / f"{split}.jsonl"
        files[split] = str(path)
        with path.open("w") as file:
            for number in range(items):
                length = 2 if number % 3 else 60
                document = {
                    "question": f"{split} {number} " + " ".join(generator.choices(WORDS, k=length)),
                    "choices": [" ".join(generator.choices(WORDS, k=generator.choice([1, 1, 4]))) for _ in range(3)],
                    "answer": generator.randrange(3),
                }
                file.write(json.dumps(document) + "\n")
    for name, settings in (TASKS | TASKS_WITH_HEADS).items():
        task = {"task": name, **SHARED, **settings, "dataset_kwargs": {"data_files": files}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("equality"))


def stock(model: Any, tokenizer: Any, tasks: Path, names: list[str], **settings: Any) -> dict[str, Any]:
    language_model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, **settings)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=language_model, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    return found


def ours(
    model: Any, tokenizer: Any, tasks: Path, names: list[str], max_length: int | None = None, batch_tokens: int = 2000
) -> tuple[Benchmark, Any, Any, ResidentModel]:
    config = BenchmarkConfig.model_validate(
        {
            "tasks": names,
            "include_path": str(tasks),
            "splits": {
                "search": {"split": "validation", "items": 5},
                "validation": {"split": "validation", "items": 5},
                "test": "test",
            },
        }
    )
    benchmark = Benchmark.build(config, tokenizer, model_config=model.config.to_dict(), max_length=max_length)
    # Of models so small every pass costs more than what it could share; here tokens alone count, as with large ones.
    resident = ResidentModel(
        model, tokenizer, device=torch.device("cpu"), batch_tokens=batch_tokens, costs=Costs(a_pass=0.0)
    )
    plan = resident.plan(benchmark.requests("test"))
    return benchmark, plan, resident.respond(plan), resident


def check_equal(
    benchmark: Benchmark, responses: Any, found: dict[str, Any], names: list[str], tolerance: float
) -> None:
    table = benchmark.score("test", responses)
    aggregates = benchmark.aggregate(table)
    for name in names:
        samples = found["samples"][name]
        for key, values in table.tasks[name].values.items():
            metric, filter_name = key.split(",")
            expected = [sample[metric] for sample in samples if sample["filter"] == filter_name]
            assert len(expected) == len(values) == 14
            for value, reference in zip(values, expected, strict=True):
                if isinstance(reference, tuple | list) or metric == "perplexity":
                    # lm-eval adds log-probabilities up in float32.
                    wanted = reference if metric == "perplexity" else list(reference)
                    assert value == pytest.approx(wanted, abs=tolerance, rel=2e-7)
                else:
                    assert value == reference
            assert aggregates[name][key] == pytest.approx(found["results"][name][key], rel=1e-5)
            if metric in {"acc", "acc_norm", "exact_match"}:
                assert aggregates[name][key] == found["results"][name][key]
    logged = [
        response[0] if isinstance(response, tuple | list) else None
        for name in names
        for sample in found["samples"][name]
        for (response,) in (sample["resps"] if sample["filter"] == found["samples"][name][0]["filter"] else [])
    ]
    reference_logs = [value for value in logged if isinstance(value, float)]
    own_logs = [response.log_probability for response in responses if isinstance(response, LogLikelihoodResponse)]
    if "rolling" not in names:
        assert own_logs == pytest.approx(reference_logs, abs=tolerance)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kind_of_task_scores_as_in_lm_eval(tmp_path: Path, tasks: Path, architecture: str) -> None:
    folder = tiny_checkpoint(tmp_path / "model", architecture)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = list(TASKS)
    benchmark, plan, responses, _ = ours(model, tokenizer, tasks, names)
    assert plan.form != "plain"
    check_equal(benchmark, responses, stock(model, tokenizer, tasks, names), names, 1e-4)


def test_a_trained_llama_scores_as_in_lm_eval_and_does_not_answer_at_random(tmp_path: Path, tasks: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train(model, tokenizer, tasks)
    names = ["choice", "choice_3shot", "generate"]
    benchmark, _, responses, _ = ours(model, tokenizer, tasks, names)
    found = stock(model, tokenizer, tasks, names)
    check_equal(benchmark, responses, found, names, 1e-4)
    texts = {response.text for response in responses if hasattr(response, "text")}
    assert len(texts) > 3


def train(model: Any, tokenizer: Any, tasks: Path) -> None:
    """A few steps on the documents, so that answers differ between items."""
    lines = [json.loads(line) for line in (tasks / "test.jsonl").read_text().splitlines()]
    texts = [f"Question: {line['question'][:60]}\nAnswer: {line['choices'][line['answer']]}\n" for line in lines]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "mixtral"])
def test_examples_shared_by_all_questions_are_computed_once_and_score_as_in_lm_eval(
    tmp_path: Path, tasks: Path, architecture: str
) -> None:
    folder = tiny_checkpoint(tmp_path / "model", architecture, max_position_embeddings=2048)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train(model, tokenizer, tasks)
    names = list(TASKS_WITH_HEADS)
    benchmark, plan, responses, _ = ours(model, tokenizer, tasks, names)
    assert plan.form == "shared"
    assert len(plan.prefixes) >= 2
    assert plan.tokens["shared"] < plan.tokens["packed"] / 2
    check_equal(benchmark, responses, stock(model, tokenizer, tasks, names), names, 1e-4)
    # A window that cuts the examples of the longest questions only.
    longest = max(len(request.context) for request in benchmark.requests("test"))
    benchmark, plan, responses, _ = ours(model, tokenizer, tasks, names, max_length=longest - 40)
    assert plan.prefixes
    found = stock(model, tokenizer, tasks, names, max_length=longest - 40)
    check_equal(benchmark, responses, found, names, 1e-4)


def test_contexts_longer_than_the_window_are_cut_as_in_lm_eval(tmp_path: Path, tasks: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = ["choice", "likelihood", "rolling", "generate"]
    benchmark, _, responses, _ = ours(model, tokenizer, tasks, names, max_length=48)
    found = stock(model, tokenizer, tasks, names, max_length=48)
    assert max(len(request.context) for request in benchmark.requests("test")) <= 48
    check_equal(benchmark, responses, found, names, 1e-4)


def test_a_tokenizer_that_adds_a_first_token_is_followed(tmp_path: Path, tasks: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    folder = tiny_checkpoint(tmp_path / "model", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    names = ["choice", "rolling", "generate", "choice_empty_context"]
    benchmark, _, responses, _ = ours(model, tokenizer, tasks, names)
    # Later windows of a rolling log-likelihood begin where the one before ended.
    first = [item.requests[0][0].context[0] for item in benchmark.splits["test"]]
    assert set(first) == {tokenizer.bos_token_id}
    check_equal(benchmark, responses, stock(model, tokenizer, tasks, names), names, 1e-4)


def test_bfloat16_agrees_within_the_stated_tolerance(tmp_path: Path, tasks: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    _, _, responses, _ = ours(model, tokenizer, tasks, ["choice", "choice_3shot"])
    language_model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, softmax_dtype="float32")
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=language_model, tasks=["choice", "choice_3shot"], task_manager=manager, bootstrap_iters=0
    )
    reference = [
        response[0]
        for name in ("choice", "choice_3shot")
        for sample in found["samples"][name]
        if sample["filter"] == "none"
        for (response,) in sample["resps"]
    ]
    # 0.06 nats per answer is what lm-eval itself moves by with its batch size in this dtype.
    assert [response.log_probability for response in responses] == pytest.approx(reference, abs=0.06)


def test_answers_do_not_depend_on_the_batch_budget_or_on_earlier_candidates(tmp_path: Path, tasks: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train(model, tokenizer, tasks)
    names = ["choice", "generate"]
    benchmark, plan, first, resident = ours(model, tokenizer, tasks, names)
    assert resident.respond(plan) == first
    weight = model.lm_head.weight
    saved = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(-1.0)
        assert resident.respond(plan) != first
        weight.copy_(saved)
    assert resident.respond(plan) == first
    _, _, small, _ = ours(model, tokenizer, tasks, names, batch_tokens=1)
    assert (
        benchmark.score("test", small).tasks["choice"].values == benchmark.score("test", first).tasks["choice"].values
    )
    assert benchmark.score("test", small).tasks["generate"] == benchmark.score("test", first).tasks["generate"]


def test_real_benchmarks_score_as_in_lm_eval(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint(tmp_path / "model", "llama", max_position_embeddings=1024)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = ["local_xcopa_sw", "local_xcopa_qu", "local_americasnli_quy"]
    config = BenchmarkConfig.model_validate(
        {
            "tasks": names,
            "include_path": str(shared_data / "lm_eval_tasks"),
            "splits": {
                "search": {"split": "validation", "items": 20},
                "validation": {"split": "validation", "items": 20},
                "test": "test",
            },
            "overlap": "drop",
        }
    )
    benchmark = Benchmark.build(config, tokenizer, model_config=model.config.to_dict())
    resident = ResidentModel(model, tokenizer, device=torch.device("cpu"))
    aggregates = benchmark.aggregate(
        benchmark.score("test", resident.respond(resident.plan(benchmark.requests("test"))))
    )
    monkeypatch.chdir(shared_data)
    found = stock(model, tokenizer, shared_data / "lm_eval_tasks", names)
    for name in names:
        assert aggregates[name]["acc,none"] == found["results"][name]["acc,none"]
