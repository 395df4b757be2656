"""Code that tasks bring: named without being run, however it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.benchmark.lm_eval.own_code import own_code
from evomerge.config.benchmark import BenchmarkConfig, TaskConfig

pytestmark = pytest.mark.slow

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: none.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tasks that bring code in each way there is, and code that would leave a file if it ran."""
    canary = f"open({str(tmp_path / 'CANARY')!r}, 'w').write('x')\ndef f(doc): return 'q'\n"
    tasks = tmp_path / "tasks"
    (tasks / "deeper").mkdir(parents=True)
    for file in (tasks / "util.py", tasks / "deeper" / "more.py", tmp_path / "outside.py"):
        file.write_text(canary)

    def write(name: str, text: str = "", where: Path = tasks) -> None:
        (where / f"{name}.yaml").write_text(TASK.format(name=name) + text)

    write("plain")
    write("function", "process_docs: !function util.f\n")
    write("below", "process_docs: !function deeper.more.f\n")
    write("nested", "filter_list: [{name: x, filter: [{function: custom, filter_fn: !function util.f}]}]\n")
    write("installed", "process_docs: !function os.path.join\n")
    (tasks / "metric.yaml").write_text(
        TASK.format(name="metric").replace("metric: acc", "metric: ./own, hf_evaluate: true")
    )
    (tasks / "path.yaml").write_text(TASK.format(name="path").replace("metric: acc", "metric: /own/metric"))
    (tasks / "tagged.yaml").write_text(
        "%TAG !e! !func\n---" + TASK.format(name="tagged") + "process_docs: !e!tion util.f\n"
    )
    (tasks / "shared").write_text("process_docs: !function util.f\n")
    write("included", "include: shared\n")
    (tasks / "class.yaml").write_text("task: class\nclass: !function util.f\n")
    (tasks / "group.yaml").write_text(
        "group: all_of_it\ntask: [plain, {task: function}, {group: in, task: [nested]}]\n"
    )
    write("labelled", "tag: some\nprocess_docs: !function util.f\n")
    return tasks


def found(folder: Path, *names: str) -> dict[str, tuple[str, ...]]:
    config = BenchmarkConfig(tasks=tuple(TaskConfig(task=name) for name in names), include_path=(str(folder),))
    return own_code(config, "x.yaml")


def test_code_is_named_by_task_and_not_run(folder: Path) -> None:
    util, more = str(folder / "util.py"), str(folder / "deeper" / "more.py")
    expected = {
        "plain": None,
        "function": util,
        "below": more,
        "nested": util,
        "installed": "the module os.path",
        "metric": "the metric ./own of Hugging Face's evaluate",
        "path": "the metric /own/metric of Hugging Face's evaluate",
        "tagged": util,
        "included": util,
        "class": util,
    }
    for name, code in expected.items():
        assert found(folder, name) == ({} if code is None else {name: (code,)}), name
    assert found(folder, "some") == {"labelled": (util,)}
    assert found(folder, "all_of_it") == {"function": (util,), "nested": (util,)}
    assert not (folder.parent / "CANARY").exists()


def test_what_is_shipped_with_lm_eval_is_trusted(folder: Path) -> None:
    assert found(folder, "gsm8k_cot", "mgsm_direct_sw", "plain") == {}


def test_a_metric_among_overrides_is_named_too() -> None:
    task = TaskConfig(task="arc_easy", overrides={"metric_list": [{"metric": "./own"}]})
    assert own_code(BenchmarkConfig(tasks=(task,)), "x.yaml") == {
        "arc_easy": ("the metric ./own of Hugging Face's evaluate",)
    }
