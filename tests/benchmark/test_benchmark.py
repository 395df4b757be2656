"""Groups, repeats, chat templates, unsafe code, short windows and odd tokenizers: as lm-eval does, or refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
import yaml
from jinja2 import Environment
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from evomerge.benchmark.lm_eval.benchmark import Benchmark
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.errors import BenchmarkError, ConfigError
from evomerge.inference.resident import ResidentModel
from evomerge.score.table import ItemTable

WORDS = ("goat", "river", "book", "rain", "market", "three", "four", "school", "mto", "vitabu", "ọmọ", "niños")

SHARED: dict[str, Any] = {
    "dataset_path": "json",
    "validation_split": "validation",
    "test_split": "test",
    "fewshot_split": "validation",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "metadata": {"version": 1.0},
}
CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("stock_results_alone")]

TEXT: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}
TASKS: dict[str, dict[str, Any]] = {
    "large": CHOICE,
    "small": {**CHOICE, "files": "few"},
    "shots": {**CHOICE, "num_fewshot": 2, "description": "Animals and water.\n"},
    "text_shots": {**TEXT, "num_fewshot": 2, "gen_prefix": "It is"},
    "repeated": {
        **TEXT,
        "repeats": 3,
        "filter_list": [
            {"name": "first", "filter": [{"function": "take_first"}]},
            {"name": "vote", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]},
        ],
    },
    "rolled": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question * 60}}",
        "repeats": 2,
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "unsafe": {**TEXT, "unsafe_code": True},
}
GROUPS: dict[str, dict[str, Any]] = {
    "by_size": {"task": ["large", "small"], "aggregate_metric_list": [{"metric": "acc_norm"}]},
    "equal": {
        "task": ["large", "small"],
        "aggregate_metric_list": [{"metric": "acc", "filter_list": "none", "weight_by_size": False}],
    },
    "nested": {"task": ["by_size", "shots"], "aggregate_metric_list": [{"metric": "acc"}]},
    "plain": {"task": ["large", "small"]},
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    generator = random.Random(1)
    for name, items in (("many", 12), ("few", 5)):
        for split in ("validation", "test"):
            with (folder / f"{name}_{split}.jsonl").open("w") as file:
                for number in range(items):
                    document = {
                        "question": f"{name} {split} {number} {' '.join(generator.choices(WORDS, k=4))}?",
                        "choices": generator.sample(WORDS, 3),
                        "answer": generator.randrange(3),
                    }
                    file.write(json.dumps(document) + "\n")
    for name, settings in TASKS.items():
        own = dict(settings)
        files = own.pop("files", "many")
        data = {split: str(folder / f"{files}_{split}.jsonl") for split in ("validation", "test")}
        task = {"task": name, **SHARED, "dataset_kwargs": {"data_files": data}, **own}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    for name, settings in GROUPS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"group": name, **settings}))
    return folder


@pytest.fixture(scope="module")
def model(tiny_llama: dict[str, Path]) -> PreTrainedModel:
    found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_llama["a"]).eval()
    return found


@pytest.fixture
def tokenizer(tiny_llama: dict[str, Path]) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama["a"])


def build(
    model: Any, tokenizer: Any, tasks: Path, names: list[Any], length: int | None = None, **settings: Any
) -> Benchmark:
    part = {"split": "validation", "items": 2}
    splits = {"search": part, "validation": part, "test": "test"}
    data = {"splits": splits, "tasks": names, "include_path": str(tasks), **settings}
    return Benchmark.build(
        BenchmarkConfig.model_validate(data), tokenizer, model_config=model.config.to_dict(), max_length=length
    )


def answered(benchmark: Benchmark, model: Any, tokenizer: Any) -> ItemTable:
    resident = ResidentModel(model, tokenizer, device=torch.device("cpu"), batch_tokens=2000)
    return benchmark.score("test", resident.respond(resident.plan(benchmark.requests("test"))))


def stock(model: Any, tokenizer: Any, tasks: Path, names: list[str], **settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1),
        tasks=names,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        **settings,
    )
    return found


def check_equal(table: ItemTable, found: dict[str, Any], names: list[str]) -> None:
    for name in names:
        for key, values in table.tasks[name].values.items():
            metric, filter_name = key.split(",")
            samples = [sample for sample in found["samples"][name] if sample["filter"] == filter_name]
            assert list(values) == [sample[metric] for sample in samples]
        answers = table.tasks[name].answers
        assert answers is not None
        samples = [
            sample for sample in found["samples"][name] if sample["filter"] == found["samples"][name][0]["filter"]
        ]
        resps = [[resp for instance in sample["resps"] for resp in instance] for sample in samples]
        if isinstance(resps[0][0], str):
            assert answers.texts() == resps
        else:
            for own, stock_own in zip(answers.log_likelihoods(), resps, strict=True):
                assert own == pytest.approx([resp[0] for resp in stock_own], abs=1e-4)


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_is_added_up_as_in_lm_eval(model: Any, tokenizer: Any, tasks: Path, name: str) -> None:
    benchmark = build(model, tokenizer, tasks, [name])
    table = answered(benchmark, model, tokenizer)
    aggregates = benchmark.aggregate(table)
    found = stock(model, tokenizer, tasks, [name])
    score = benchmark.objective.score(aggregates, table.sizes)
    if name == "plain":
        # lm-eval adds up nothing here; each task counts the same.
        assert "plain" not in aggregates
        assert score == pytest.approx(sum(found["results"][leaf]["acc,none"] for leaf in ("large", "small")) / 2)
        return
    metric = {"by_size": "acc_norm,none", "equal": "acc,none", "nested": "acc,none"}[name]
    assert set(benchmark.objective.metrics.values()) == {metric}
    assert aggregates[name][metric] == pytest.approx(found["results"][name][metric])
    assert score == pytest.approx(found["results"][name][metric])


def test_a_group_beside_a_task_has_the_weight_of_its_entry(model: Any, tokenizer: Any, tasks: Path) -> None:
    benchmark = build(model, tokenizer, tasks, [{"task": "by_size", "weight": 3}, "shots"])
    weights = benchmark.objective.weights_for({"large": 12, "small": 5, "shots": 12})
    assert weights == pytest.approx({"large": 0.75 * 12 / 17, "small": 0.75 * 5 / 17, "shots": 0.25})


def test_repeats_are_filtered_as_in_lm_eval(model: Any, tokenizer: Any, tasks: Path) -> None:
    benchmark = build(model, tokenizer, tasks, [{"task": "repeated", "metric": "exact_match,vote"}])
    assert all(len(item.requests[0]) == 3 for item in benchmark.splits["test"])
    check_equal(answered(benchmark, model, tokenizer), stock(model, tokenizer, tasks, ["repeated"]), ["repeated"])


def test_repeats_of_a_text_in_several_windows_are_each_its_sum(model: Any, tokenizer: Any, tasks: Path) -> None:
    benchmark = build(model, tokenizer, tasks, ["rolled"])
    item = benchmark.splits["test"][0]
    assert len(item.requests[0]) >= 4
    table = answered(benchmark, model, tokenizer)
    found = stock(model, tokenizer, tasks, ["rolled"])
    metric = "word_perplexity,none"
    assert benchmark.aggregate(table)["rolled"][metric] == pytest.approx(found["results"]["rolled"][metric], rel=1e-5)
    answers = table.tasks["rolled"].answers
    assert answers is not None
    assert all(first == second for first, second in answers.log_likelihoods())


@pytest.mark.parametrize(("multiturn", "system"), [(None, None), (True, "Be brief."), (False, "Be brief.")])
def test_chat_prompts_are_those_of_lm_eval(
    model: Any, tokenizer: Any, tasks: Path, multiturn: bool | None, system: str | None
) -> None:
    names = ["shots", "text_shots"]
    settings = {"apply_chat_template": True, "system_instruction": system}
    benchmark = build(model, tokenizer, tasks, names, fewshot_as_multiturn=multiturn, **settings)
    turns = {} if multiturn is None else {"fewshot_as_multiturn": multiturn}
    found = stock(model, tokenizer, tasks, names, **settings, **turns)
    prompts = [item.instances[0].args[0] for item in benchmark.splits["test"]]
    assert prompts == [sample["arguments"][0][0] for name in names for sample in found["samples"][name]]
    assert ("system: Be brief." in prompts[0]) == (system is not None)
    assert (prompts[0].count("user: ") == 3) == (multiturn is not False)
    check_equal(answered(benchmark, model, tokenizer), found, names)


def test_a_system_instruction_without_a_template_stands_before_the_prompt(
    model: Any, tokenizer: Any, tasks: Path
) -> None:
    benchmark = build(model, tokenizer, tasks, ["shots"], system_instruction="Be brief.")
    found = stock(model, tokenizer, tasks, ["shots"], system_instruction="Be brief.")
    assert benchmark.splits["test"][0].instances[0].args[0].startswith("Be brief.")
    check_equal(answered(benchmark, model, tokenizer), found, ["shots"])


def test_turns_without_a_chat_template_are_refused(model: Any, tokenizer: Any, tasks: Path) -> None:
    with pytest.raises(ValueError, match="fewshot_as_multiturn needs apply_chat_template"):
        build(model, tokenizer, tasks, ["shots"], fewshot_as_multiturn=True)
    tokenizer.chat_template = None
    with pytest.raises(BenchmarkError, match="no chat template"):
        build(model, tokenizer, tasks, ["shots"], apply_chat_template=True)


def test_a_task_that_runs_code_must_be_named(model: Any, tokenizer: Any, tasks: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"confirm_run_unsafe_code: \[unsafe\]"):
        build(model, tokenizer, tasks, ["unsafe"])
    with pytest.raises(BenchmarkError, match="runs code"):
        build(model, tokenizer, tasks, ["unsafe"], confirm_run_unsafe_code=["large"])
    benchmark = build(model, tokenizer, tasks, ["unsafe"], confirm_run_unsafe_code=["unsafe"])
    found = stock(model, tokenizer, tasks, ["unsafe"], confirm_run_unsafe_code=True)
    check_equal(answered(benchmark, model, tokenizer), found, ["unsafe"])


def test_prompts_longer_than_the_window_are_counted(model: Any, tokenizer: Any, tasks: Path) -> None:
    whole = build(model, tokenizer, tasks, ["shots", "text_shots", "large"])
    assert whole.truncated == []
    lengths = [
        max(len(request.context) + len(getattr(request, "continuation", ())) - 1 for (request,) in item.requests)
        for item in whole.splits["test"]
        if item.task == "shots"
    ]
    window = sorted(lengths)[3]
    short = build(model, tokenizer, tasks, ["shots", "text_shots", "large"], length=window)
    longer = sum(length > window for length in lengths)
    assert f"{longer} of 12 test items of shots are longer than the context window of {window} tokens" in "\n".join(
        short.truncated
    )
    assert f"lose up to {max(lengths) - window} tokens" in "\n".join(short.truncated)
    assert any("test items of text_shots" in sentence for sentence in short.truncated)
    assert not any("of large" in sentence for sentence in short.truncated)


def test_a_window_that_leaves_nothing_of_the_question_is_refused(model: Any, tokenizer: Any, tasks: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"task: large, document \d+: .*(nothing of the question|tokens)"):
        build(model, tokenizer, tasks, ["large"], length=2)
    items = build(model, tokenizer, tasks, ["large"]).splits["test"]
    longest = max(len(request.continuation) for item in items for (request,) in item.requests)  # type: ignore[union-attr]
    with pytest.raises(BenchmarkError, match="nothing of the question would be left"):
        build(model, tokenizer, tasks, ["large"], length=longest)
    with pytest.raises(BenchmarkError, match=r"execution\.max_length"):
        build(model, tokenizer, tasks, ["text_shots"], length=8)


@pytest.mark.parametrize("missing", [("pad_token",), ("bos_token",), ("pad_token", "bos_token", "unk_token")])
def test_a_tokenizer_without_special_tokens_scores_as_in_lm_eval(
    model: Any, tiny_llama: dict[str, Path], tasks: Path, missing: tuple[str, ...]
) -> None:
    def fresh() -> Any:
        found = AutoTokenizer.from_pretrained(tiny_llama["a"])
        for name in missing:
            setattr(found, name, None)
        return found

    names = ["large", "text_shots"]
    benchmark = build(model, fresh(), tasks, names)
    check_equal(answered(benchmark, model, fresh()), stock(model, fresh(), tasks, names), names)


def test_a_tokenizer_without_any_first_or_last_token_is_refused(model: Any, tokenizer: Any, tasks: Path) -> None:
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(BenchmarkError, match="neither a BOS nor an EOS token"):
        build(model, tokenizer, tasks, ["large"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"task": "large", "metric": "bleu"}, r"tasks\[0\].metric: unknown metric 'bleu'.*acc,none, acc_norm,none"),
        ({"task": "large", "metric": "acc,first"}, r"tasks\[0\].metric: unknown metric 'acc,first'"),
        ({"task": "repeated", "metric": "exact_match"}, "choose one of exact_match,first, exact_match,vote"),
        (
            {"task": "large", "splits": {"search": {"split": "train"}}},
            r"splits.search: large has no data-set split 'train'; it has ",
        ),
        ({"task": "by_size", "metric": "f1"}, "unknown metric 'f1'"),
    ],
)
def test_a_task_without_the_asked_split_or_metric_is_refused(
    model: Any, tokenizer: Any, tasks: Path, entry: dict[str, Any], message: str
) -> None:
    with pytest.raises((BenchmarkError, ConfigError), match=message):
        build(model, tokenizer, tasks, [entry])


def test_a_template_is_compiled_once_for_all_documents_and_candidates(
    model: Any, tokenizer: Any, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    compile_one = Environment.compile
    monkeypatch.setattr(
        Environment, "compile", lambda self, source, *more: compiled.append(source) or compile_one(self, source, *more)
    )
    benchmark = build(model, tokenizer, tasks, ["large"])
    assert len(compiled) == len(set(compiled))
    made = len(compiled)
    answered(benchmark, model, tokenizer)
    assert len(compiled) == made


def test_a_request_leads_back_to_its_item(model: Any, tokenizer: Any, tasks: Path) -> None:
    benchmark = build(model, tokenizer, tasks, ["repeated", "large"])
    owners = [benchmark.item("test", place) for place in range(len(benchmark.requests("test")))]
    assert [owner.id for owner in owners[:3]] == [benchmark.splits["test"][0].id] * 3
    assert owners[-1] is benchmark.splits["test"][-1]
