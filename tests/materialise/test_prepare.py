"""What a method prepares: when it is computed, shared and used again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from safetensors.torch import load_file, save_file

from evomerge.config.config import Config
from evomerge.execute.worker import Worker
from evomerge.methods import METHODS
from evomerge.recipe.sources import ModelReference
from evomerge.run.directory import PREPARED
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from evomerge.study.export import export
from evomerge.study.search import resume, search
from evomerge.testing.models import tiny_family
from evomerge.testing.runs import essence
from helpers.merging import prepared
from helpers.prepared import equal, files_of, merged, merger_of, recipe_of
from helpers.search import write_config, write_task
from helpers.worker import REQUESTS, answers, job, make_settings

pytestmark = pytest.mark.usefixtures("noted")


def test_states_of_other_options_models_and_orders_are_kept_apart(tmp_path: Path, notes: Path) -> None:
    family = tiny_family(tmp_path / "models")
    models, states = list(family.values()), tmp_path / "states"

    def folders_after(models: list[Path], **settings: Any) -> int:
        recipe = recipe_of(models, **settings)
        assert equal(merged(merger_of(models, states), recipe), merged(merger_of(models, None), recipe))
        return len(list(states.iterdir()))

    assert folders_after(models) == 1
    assert folders_after(models, coefficients={"scale": 0.25}) == 1
    assert folders_after(models, options={"shift": 0.5}) == 2
    assert folders_after(models, seed=3) == 3
    assert folders_after([models[0], *models[:0:-1]]) == 4
    assert folders_after(models[:2]) == 5
    copied = [Path(shutil.copytree(folder, tmp_path / "copies" / folder.name)) for folder in models]
    assert folders_after(copied) == 5
    for index, entry in ((0, 0), (1, -1)):
        tensors = load_file(copied[index] / "model.safetensors")
        tensors["lm_head.weight"].view(-1)[entry] += 1.0
        (copied[index] / "model.safetensors").unlink()
        save_file(tensors, copied[index] / "model.safetensors", {"format": "pt"})
        assert folders_after(copied) == 6 + index


def test_a_method_whose_code_changes_prepares_anew(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "their_method.py"
    module.write_text("from helpers.prepared import Noted\n\nclass Theirs(Noted):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with METHODS.extended({"theirs": "their_method:Theirs"}):
        for number in (1, 1, 2):
            if number == 2:
                module.write_text(module.read_text() + "\n# another release\n")
            prepared(merger_of(models, tmp_path / "states"), recipe_of(models, "theirs"))
            assert len(list((tmp_path / "states").iterdir())) == number
        module.unlink()
        prepared(merger_of(models, tmp_path / "states"), recipe_of(models, "theirs"))
    assert len(list((tmp_path / "states").iterdir())) == 2


def test_a_folder_may_be_named_by_variables_of_the_workers_machine(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_OF_NODE", str(tmp_path))
    settings = make_settings(tiny_llama, states="$SCRATCH_OF_NODE/states")
    worker = Worker(settings)
    worker.add_requests("search", REQUESTS)
    recipe = replace(job(settings, 0, 0.5).recipe, method="ties")
    answers(worker.evaluate(replace(job(settings, 0, 0.5), recipe=recipe)))
    assert files_of(tmp_path / "states")


class Stop(SilentObserver):
    """Interrupts a search after so many evaluations."""

    def __init__(self, after: int) -> None:
        self._left = after

    def trial(self, record: TrialRecord) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ties", "tsv_merge"])
def test_a_resumed_search_prepares_nothing_and_ends_as_one_that_kept_no_states(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    changes = {"merge": {"method": method}, "search": {"evaluations": 8, "scan": 2}}
    tasks = write_task(tmp_path / "tasks")
    kind, prepared_tensors = METHODS.get(method), []
    prepare = kind.prepare
    monkeypatch.setattr(
        kind, "prepare", lambda self, inputs: prepared_tensors.append(inputs.name) or prepare(self, inputs)
    )
    (tmp_path / "no folder").touch()
    in_memory = {**changes, "execution": {"prepared_directory": str(tmp_path / "no folder")}}
    config = Config.from_file(write_config(tmp_path / "memory.yaml", tiny_llama, tasks, **in_memory))
    search(config, tmp_path / "undisturbed")
    assert prepared_tensors

    config = Config.from_file(write_config(tmp_path / "config.yaml", tiny_llama, tasks, **changes))
    directory = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(config, directory, observer=Stop(7))
    kept = {path.stem for path in files_of(directory / PREPARED)}
    assert kept
    prepared_tensors.clear()
    resume(directory)
    assert not set(prepared_tensors) & kept
    assert essence(directory) == essence(tmp_path / "undisturbed")

    prepared_tensors.clear()
    export(directory, tmp_path / "with states")
    assert not set(prepared_tensors) & kept
    shutil.rmtree(directory / PREPARED)
    export(directory, tmp_path / "without")
    assert {quote(name, safe="") for name in prepared_tensors} >= kept
    assert not (directory / PREPARED).exists()
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("with states", "without")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.ray
def test_ray_workers_share_states_and_their_problem_reaches_the_driver(
    tmp_path: Path, tiny_llama: dict[str, Path], caplog: pytest.LogCaptureFixture, local_ray: None
) -> None:
    from evomerge.execute.ray.executor import RayExecutor

    def evaluate(states: Path) -> list[Any]:
        settings = make_settings(tiny_llama, states=str(states))
        recipe = replace(job(settings, 0, 0.5).recipe, method="ties")
        executor = RayExecutor(settings, workers=2, cpus_per_worker=0.1)
        try:
            executor.add_requests("search", REQUESTS)
            jobs = [replace(job(settings, number, 0.5), recipe=recipe) for number in range(4)]
            return [answers(outcome).responses for _, outcome in executor.run(jobs)]
        finally:
            executor.close()

    kept = evaluate(tmp_path / "states")
    assert len(files_of(tmp_path / "states")) == len(merger_of(list(tiny_llama.values()), None).base.names)
    # On a busy machine it may take long until the first worker is there, which is said.
    assert all(record.getMessage().startswith("no worker has started yet") for record in caplog.records)
    (tmp_path / "a file").touch()
    assert evaluate(tmp_path / "a file") == kept
    told = [record.getMessage() for record in caplog.records if "can't be kept" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("worker ")


def test_an_estimate_of_the_time_goes_by_one_tensor_of_each_shape(
    models: list[Path], notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS", "0.05")
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr("helpers.prepared.time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr("evomerge.materialise.prepare.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    merger = merger_of(models, None)
    shapes = {info.shape for info in merger.base.tensors.values()}
    count = len(merger.base.names)
    estimate = merger.preparer.estimated_seconds(merger.bind(recipe_of(models)), 60.0)
    assert notes.read_text().count("\n") == len(shapes)
    assert estimate == pytest.approx(0.05 * count)
    notes.write_text("")
    assert merger.preparer.estimated_seconds(merger.bind(recipe_of(models)), 0.01) > 0.0
    assert notes.read_text().count("\n") == 1
    assert merger.preparer.estimated_seconds(merger.bind(recipe_of(models, "task_arithmetic")), 1.0) == 0.0


def test_references_dont_matter_to_states(tmp_path: Path, models: list[Path]) -> None:
    recipe = recipe_of(models)
    merger = merger_of(models, tmp_path / "states")
    merger.preparer.prepare(merger.bind(recipe))
    merger.preparer.prepare(merger.bind(replace(recipe, base=ModelReference(path="elsewhere"))))
    assert len(list((tmp_path / "states").iterdir())) == 1
