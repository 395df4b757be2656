"""Documents that belong together: one role for all of a cluster, in every task, however they are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from evomerge.benchmark.clusters import by_task, clusters_of, kept_apart, numbered
from evomerge.benchmark.lm_eval.benchmark import Benchmark
from evomerge.benchmark.lm_eval.items import Item
from evomerge.config.benchmark import BenchmarkConfig
from evomerge.errors import BenchmarkError, ConfigError

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["goat", "river"]
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, file=file))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty questions in two languages, the second in another order."""
    write(tmp_path, "english", [{"question": f"English {number}?", "id": number} for number in range(40)])
    shuffled = [(7 * number + 3) % 40 for number in range(40)]
    write(tmp_path, "swahili", [{"question": f"Swahili {number}?", "id": number} for number in shuffled])
    return tmp_path


def build(folder: Path, model: Path, **settings: Any) -> Benchmark:
    config = BenchmarkConfig(tasks=["english", "swahili"], include_path=str(folder), **settings)
    tokenizer = AutoTokenizer.from_pretrained(model)
    return Benchmark.build(config, tokenizer, model_config=json.loads((model / "config.json").read_text()))


def roles(benchmark: Benchmark) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for role, items in benchmark.splits.items():
        for item in items:
            found.setdefault(str(item.document["id"]), set()).add(role)
    return found


def test_translations_have_one_role_and_without_the_key_they_are_torn_apart(
    folder: Path, tiny_llama: dict[str, Path]
) -> None:
    together = build(folder, tiny_llama["base"], cluster="id")
    assert all(len(found) == 1 for found in roles(together).values())
    assert {split: len(items) for split, items in together.splits.items()} == {
        "search": 32,
        "validation": 24,
        "test": 24,
    }
    assert any(len(found) > 1 for found in roles(build(folder, tiny_llama["base"])).values())
    for items in together.splits.values():
        clusters = by_task(items)
        assert clusters is not None
        assert sorted(clusters["english"]) == sorted(clusters["swahili"])


def test_by_position_the_place_in_the_data_decides(folder: Path, tiny_llama: dict[str, Path]) -> None:
    made = build(folder, tiny_llama["base"], cluster="position")
    clusters = {role: by_task(items) for role, items in made.splits.items()}
    assert all(found is not None and set(found["english"]) == set(found["swahili"]) for found in clusters.values())


def test_tasks_that_are_not_parallel_share_no_cluster_though_their_numbers_are_the_same(
    folder: Path, tiny_llama: dict[str, Path]
) -> None:
    write(folder, "capitals", [{"question": f"Capital {number}?", "id": number} for number in range(60)])
    whole = {"splits": {"search": 0.2, "validation": 0.4, "test": 0.4}, "parallel": "capitals"}
    tasks = [*({"task": name, "parallel": "sums"} for name in ("english", "swahili")), {"task": "capitals", **whole}]
    made = build_of(folder, tiny_llama["base"], tasks)
    assert sum(map(len, made.splits.values())) == 40 + 40 + 60
    for items in made.splits.values():
        clusters = by_task(items)
        assert clusters is not None
        assert set(clusters["english"]) == set(clusters["swahili"])
        assert not set(clusters["english"]) & set(clusters["capitals"])
    with pytest.raises((ConfigError, ValueError), match="'english': parallel says whose clusters it shares"):
        BenchmarkConfig.model_validate({"tasks": [{"task": "english", "parallel": "sums"}]})


def test_a_task_with_other_splits_is_refused_or_loses_what_has_a_later_role(
    folder: Path, tiny_llama: dict[str, Path]
) -> None:
    tasks = ["english", {"task": "swahili", "splits": {"search": 0.2, "validation": 0.2, "test": 0.6}}]
    with pytest.raises(BenchmarkError, match=r"benchmark\.cluster: \d+ clusters have .* items in other tasks"):
        build_of(folder, tiny_llama["base"], tasks)
    dropped = build_of(folder, tiny_llama["base"], tasks, overlap="drop")
    assert all(len(found) == 1 for found in roles(dropped).values())
    assert len(dropped.splits["test"]) == 12 + 24


def build_of(folder: Path, model: Path, tasks: list[Any], **settings: Any) -> Benchmark:
    config = BenchmarkConfig.model_validate({"tasks": tasks, "include_path": str(folder), "cluster": "id", **settings})
    tokenizer = AutoTokenizer.from_pretrained(model)
    return Benchmark.build(config, tokenizer, model_config=json.loads((model / "config.json").read_text()))


def test_a_field_that_documents_lack_is_refused_with_those_that_they_have(
    folder: Path, tiny_llama: dict[str, Path]
) -> None:
    with pytest.raises(BenchmarkError, match=r"benchmark\.cluster: document 0 of 'test' has no 'uid'; it has question"):
        build(folder, tiny_llama["base"], cluster="uid")
    with pytest.raises((ConfigError, ValueError), match="cluster is of tasks"):
        BenchmarkConfig.model_validate({"function": "a:b", "cluster": "id"})


def test_documents_that_say_the_same_are_of_one_cluster_through_any_chain() -> None:
    documents = [{"id": name} for name in "abcda"]
    names = clusters_of(documents, "id", "test", ["1", "2", "2", "3", "3"], "here")
    assert len(set(names)) == 2
    assert names[0] == names[3] == names[4]
    assert names[1] == names[2]


def test_clusters_by_number_are_in_the_order_of_their_names_and_shared_by_tasks() -> None:
    def item(task: str, cluster: str) -> Item:
        return Item(id=task + cluster, task=task, document={}, instances=(), requests=(), cluster=cluster)

    items = [item("a", "10"), item("a", "2"), item("b", "10"), item("b", "x")]
    assert numbered(items) == {"a": [0, 1], "b": [0, 2]}
    assert numbered(items[:2]) is None, "no two belong together"


def test_what_is_in_no_cluster_is_left_alone() -> None:
    def item(task: str, cluster: str) -> Item:
        return Item(id=task + cluster, task=task, document={}, instances=(), requests=(), cluster=cluster)

    splits = {"search": [item("a", ""), item("a", "q")], "test": [item("b", ""), item("b", "q")]}
    assert kept_apart(splits, drop=True, where="x") == {"search": [item("a", "")], "test": splits["test"]}
    assert by_task(splits["test"]) is None
