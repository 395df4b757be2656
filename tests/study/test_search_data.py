"""What is wrong with items and answers is said early, and by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets.exceptions import DatasetNotFoundError
from safetensors.torch import load_file, save_file

from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, RunError
from evomerge.run.directory import open_run
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from evomerge.study.check import check
from evomerge.study.search import search
from helpers.search import write_config, write_task

pytestmark = pytest.mark.slow


class Heard(SilentObserver):
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.messages: list[str] = []
        self.seconds: dict[str, list[dict[str, float]]] = {}

    def phase(self, name: str, total: int | None) -> None:
        self.phases.append(name)

    def trial(self, record: TrialRecord) -> None:
        # Workers start within a phase, which goes on.
        (phase,) = [name for name in self.phases if name not in {"workers", "ready"}][-1:]
        self.seconds.setdefault(phase, []).append(dict(record.seconds))

    def message(self, text: str) -> None:
        self.messages.append(text)


def experiment(folder: Path, models: dict[str, Path], **changes: Any) -> Config:
    tasks = write_task(folder / "tasks", items=12)
    budget = {"search": {"evaluations": 4, "population": 4, "scan": 1, "shortlist": 1}}
    return Config.from_file(write_config(folder / "x.yaml", models, tasks, **{**budget, **changes}))


GENERATED = {
    "output_type": "generate_until",
    "doc_to_target": "{{question}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}


@pytest.mark.parametrize("settings", [{}, GENERATED], ids=["log-likelihood", "generated"])
def test_answers_that_are_no_numbers_fail_the_candidate_and_name_the_item(
    tmp_path: Path, tiny_llama: dict[str, Path], settings: dict[str, Any]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama["a"], broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].sign() * 3e38
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    config = experiment(tmp_path, {**tiny_llama, "broken": broken})
    path = tmp_path / "tasks" / "tiny_choice.yaml"
    task = {**yaml.safe_load(path.read_text()), **settings}
    if settings:
        del task["doc_to_choice"]
    path.write_text(yaml.safe_dump(task))
    # Merges with it break as well.
    with pytest.raises(RunError, match="every candidate failed"):
        search(config, tmp_path / "run")
    ledger = open_run(tmp_path / "run").ledger()
    (number,) = [trial.number for trial in ledger.trials() if trial.name == "broken"]
    found, base = ledger.evaluation(number, "search"), ledger.evaluation(0, "search")
    assert found is not None
    assert found.failure is not None
    assert base is not None
    assert base.table is not None
    assert found.failure.startswith("not_finite: ")
    items = base.table.tasks["tiny_choice"].items
    assert any(f"(item {item} of tiny_choice)" in found.failure for item in items)


def test_prompts_that_are_cut_are_reported_by_check_and_at_the_start(
    tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    config = experiment(tmp_path, tiny_llama, execution={"max_length": 20})
    warned = [text for text in check(config).warnings if "context window" in text]
    assert len(warned) == 3
    assert "12 of 12 test items of tiny_choice are longer than the context window of 20 tokens" in warned[2]
    heard = Heard()
    search(config, tmp_path / "run", observer=heard)
    assert heard.messages == warned


def unreachable(*_: Any, **__: Any) -> Any:
    raise DatasetNotFoundError("Dataset 'some/gated' is a gated dataset on the Hub. You must be authenticated.")


@pytest.mark.parametrize("gated", [False, True])
def test_data_that_cannot_be_had_is_said_before_workers_start(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch, gated: bool
) -> None:
    config = experiment(tmp_path, tiny_llama)
    path = tmp_path / "tasks" / "tiny_choice.yaml"
    task = yaml.safe_load(path.read_text())
    del task["dataset_kwargs"]
    path.write_text(yaml.safe_dump({**task, "dataset_path": "some/gated"}))
    if gated:
        monkeypatch.setattr("datasets.load_dataset", unreachable)
    heard = Heard()
    with pytest.raises(BenchmarkError, match=r"tiny_choice can't be loaded.*log in if the data set is gated") as caught:
        search(config, tmp_path / "run", observer=heard, where="x.yaml")
    assert caught.value.unreachable
    assert "x.yaml: benchmark.tasks[0].task" in str(caught.value)
    assert heard.phases == ["models", "benchmark"]
    assert not (tmp_path / "run").exists()


def test_who_looks_on_is_told_what_each_evaluation_took_on_its_own_split(
    tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    heard = Heard()
    search(experiment(tmp_path, tiny_llama), tmp_path / "run", observer=heard)
    assert open_run(tmp_path / "run").facts["costs"]["search"] == 1.0
    ledger = open_run(tmp_path / "run").ledger()
    for split in ("validation", "test"):
        kept = [found.seconds for found in ledger.evaluations() if found.split == split]
        assert kept
        assert heard.seconds[split] == kept
        assert not [one for one in kept if one and one in heard.seconds["search"]]
