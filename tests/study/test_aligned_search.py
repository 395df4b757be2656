"""Searches over models trained apart: aligned once, the same maps for every worker, session and export."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evomerge.config.config import Config
from evomerge.errors import ConfigError, ResumeError
from evomerge.execute.base import Answers, Job
from evomerge.execute.settings import worker_settings
from evomerge.execute.worker import Worker
from evomerge.models.alignment import Alignable, digest
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import open_models
from evomerge.recipe.align import Align
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.run.directory import open_run
from evomerge.study import each_minute
from evomerge.study import maps as finding
from evomerge.study.align import align
from evomerge.study.check import check
from evomerge.study.experiment import open_experiment
from evomerge.study.export import export
from evomerge.study.merge import merge
from evomerge.study.search import resume, search
from evomerge.testing.models import tiny_checkpoint
from helpers.adapters import recipe_of, write_adapter
from helpers.search import Interrupt, changed, write_config, write_task

pytestmark = pytest.mark.slow

FEW = {"evaluations": 4, "population": 4, "scan": 2, "shortlist": 1}
FINDING = "finding the maps that align the models"


def apart_in(folder: Path) -> dict[str, Path]:
    names = ("base", "a", "b")
    return {name: tiny_checkpoint(folder / name, seed=seed, tied=True) for seed, name in enumerate(names)}


@pytest.fixture
def apart(tmp_path: Path) -> dict[str, Path]:
    """A base and two experts that have nothing in common."""
    return apart_in(tmp_path)


def config_of(tmp_path: Path, models: dict[str, Path], **settings: Any) -> Config:
    path = write_config(tmp_path / "config.yaml", models, write_task(tmp_path / "tasks"), search=FEW)
    data = yaml.safe_load(path.read_text())
    data["models"]["align"] = {"method": "weight_matching", **settings}
    return Config.from_data(data)


class Heard(Interrupt):
    """Keeps what it is told, and breaks off a search after some trials if asked to."""

    def __init__(self, after: int = 10**9) -> None:
        super().__init__(after)
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with models that have nothing in common and a finished search over them, and what it said."""
    folder, heard = tmp_path_factory.mktemp("ended"), Heard()
    search(config_of(folder, apart_in(folder)), folder / "run", observer=heard)
    return folder, heard.lines


@pytest.fixture
def run(ended: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A copy of the search, which may be written into."""
    return Path(shutil.copytree(ended[0] / "run", tmp_path / "run"))


@pytest.mark.parametrize("residual", [None, "orthogonal"])
def test_the_winner_is_exported_and_merged_again_with_the_maps_of_the_run(
    tmp_path: Path, apart: dict[str, Path], residual: str | None
) -> None:
    result = search(config_of(tmp_path, apart, residual=residual, seed=4), tmp_path / "run")
    maps = (tmp_path / "run" / "alignment.safetensors").read_bytes()
    assert open_run(tmp_path / "run").facts["alignment"] == digest(maps)
    candidate = next(trial for trial in open_run(tmp_path / "run").trials() if trial.kind == "candidate")
    out = export(tmp_path / "run", tmp_path / "out", trial=candidate.number)
    assert (out / "alignment" / "maps.safetensors").read_bytes() == maps
    again = merge(out / "recipe.yaml", tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert result.data["winner"]["recipe"]["models"]["align"]["sha256"] == digest(maps)
    # The same by hand: aligned folders, merged as any others with the candidate's coefficients.
    written = align(apart["base"], [apart["a"], apart["b"]], tmp_path / "folders", residual=residual, seed=4)
    folders = {found.name: str(found.folder) for found in written}
    recipe = Recipe.from_file(out / "recipe.yaml")
    by_hand = Recipe(
        base=ModelReference(path=folders.get("base", str(apart["base"]))),
        experts={name: ModelReference(path=folders[name]) for name in ("a", "b")},
        method=recipe.method,
        groups=recipe.groups,
        options=recipe.options,
    )
    merge(by_hand, tmp_path / "by-hand")
    expected, found = (load_file(folder / "model.safetensors") for folder in (tmp_path / "by-hand", out))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-6), name


def test_the_models_score_what_they_score_by_themselves(tmp_path: Path, ended: tuple[Path, list[str]]) -> None:
    folder = ended[0]
    models = {name: folder / name for name in ("base", "a", "b")}
    plain = Config.from_file(write_config(tmp_path / "plain.yaml", models, folder / "tasks", search=FEW))
    # Until the base and both experts have been scored.
    with pytest.raises(KeyboardInterrupt):
        search(plain, tmp_path / "plain", observer=Interrupt(3))

    def scores(run: Path) -> list[float | None]:
        trials = open_run(run).trials()
        return [trial.score for trial in trials if trial.kind in ("base", "expert")]

    assert None not in scores(folder / "run")
    assert scores(folder / "run") == scores(tmp_path / "plain")


def test_a_search_goes_on_with_the_maps_that_it_began_with(run: Path) -> None:
    config = open_run(run).config
    maps = run / "alignment.safetensors"
    data = maps.read_bytes()
    maps.write_bytes(data[:-8])
    search(changed(config, search={"evaluations": 6}), run)
    assert maps.read_bytes() == data
    assert open_run(run).result()["evaluations"] == 6  # type: ignore[index]
    with pytest.raises(ResumeError, match=r"models\.align"):
        search(changed(config, models={"align": {"method": "weight_matching", "seed": 1}}), run)


def test_workers_take_the_maps_that_they_are_given(tmp_path: Path, apart: dict[str, Path]) -> None:
    config = config_of(tmp_path, apart)
    models = {name: Checkpoint.open(folder) for name, folder in apart.items()}
    kin = Alignable(align=Align(), models=models)
    given = {"a": kin.frame.spec.random(np.random.default_rng(0)), "b": {}, "base": {}}
    settings = worker_settings(config, dtype="float32", maps=kin.to_bytes(given))
    worker = Worker(settings)
    recipe = Recipe.of(
        config.models.sources(), method="passthrough", options={"model": "a"}, groups=(Group(name="all"),)
    )
    worker.add_requests("none", ())
    assert isinstance(worker.evaluate(Job(number=0, recipe=recipe, split="none")), Answers)
    expected = open_models(config.models.sources(), kin.to_bytes(given)).experts["a"]
    live = dict(worker._merged.live.model.named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(live[name], expected.tensor(name))
    assert not torch.equal(live[name], models["a"].tensor(name))


def test_a_search_says_that_it_finds_maps_and_each_minute_how_many_steps_are_done(
    tmp_path: Path, apart: dict[str, Path], ended: tuple[Path, list[str]], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ended[1]
    assert said[0] == FINDING
    assert not any("steps done" in line for line in said)
    again = Heard(1)
    with pytest.raises(KeyboardInterrupt):
        resume(run, evaluations=6, observer=again)
    assert FINDING not in again.lines
    config = config_of(tmp_path, apart)
    monkeypatch.setattr(each_minute, "_MINUTE_S", 0.0)
    lines: list[str] = []
    finding.find_maps(open_experiment(config, where="config"), lines.append)
    assert lines[0] == FINDING
    counts = [re.fullmatch(r"finding the maps: (\d+) steps done, [1-9]\d* more in sight", line) for line in lines[1:]]
    steps = [int(count[1]) for count in counts if count is not None]
    assert len(steps) == len(counts) > 2
    assert steps == sorted(set(steps))


def test_check_finds_what_is_wrong_without_aligning(tmp_path: Path, apart: dict[str, Path]) -> None:
    assert check(config_of(tmp_path, apart)).dimensions
    with pytest.raises(ConfigError, match=r"models\.align\.method: unknown alignment method 'weight_machin'"):
        check(config_of(tmp_path, apart, method="weight_machin"))
    with pytest.raises(ConfigError, match="unknown option of weight_matching 'order'"):
        check(config_of(tmp_path, apart, options={"order": 2}))
    with pytest.raises(ConfigError, match="unknown model 'c'"):
        config_of(tmp_path, apart, reference="c")


def test_an_expert_can_be_the_reference_and_the_base_is_brought_to_it(tmp_path: Path, apart: dict[str, Path]) -> None:
    models = open_models(config_of(tmp_path, apart, reference="a").models.sources())
    name = "model.embed_tokens.weight"
    assert torch.equal(models.experts["a"].tensor(name), Checkpoint.open(apart["a"]).tensor(name))
    assert not torch.equal(models.base.tensor(name), Checkpoint.open(apart["base"]).tensor(name))


def test_a_recipe_without_maps_finds_them_and_keeps_them(tmp_path: Path, apart: dict[str, Path]) -> None:
    text = json.dumps(
        {
            "evomerge": 1,
            "models": {
                "base": "base",
                "experts": {"a": "a"},
                "align": {"method": "weight_matching", "seed": 2},
            },
            "method": "task_arithmetic",
            "groups": [{"name": "all", "coefficients": {"weight": 0.5}}],
        }
    )
    (tmp_path / "recipe.yaml").write_text(text)
    out = merge(tmp_path / "recipe.yaml", tmp_path / "out")
    kept = Recipe.from_file(out / "recipe.yaml")
    assert kept.align is not None
    assert kept.align.maps == str(out / "alignment" / "maps.safetensors")
    assert kept.align.seed == 2
    assert Recipe.from_yaml(kept.to_yaml()) == kept


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_moves_with_its_aligned_base(tmp_path: Path, apart: dict[str, Path]) -> None:
    adapter = write_adapter(tmp_path / "adapter", apart["base"])
    weights = {"adapter": 1.0, "other": 0.0}
    recipe = recipe_of(
        apart["base"],
        {"adapter": adapter, "other": apart["a"]},
        align=Align(reference="other"),
        groups=(Group(name="all", coefficients={"weight": weights}),),
    )
    out = merge(recipe, tmp_path / "out")
    tokens = torch.arange(3, 40)[None]
    own = AutoModelForCausalLM.from_pretrained(apart["base"], dtype=torch.float32)
    moved = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    with torch.no_grad():
        alone = own(tokens).logits
        expected = PeftModel.from_pretrained(own, adapter).eval()(tokens).logits
        found = moved.eval()(tokens).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, alone, atol=1e-2)
    name = "model.layers.0.self_attn.v_proj.weight"
    assert not torch.allclose(moved.state_dict()[name], own.state_dict()[name.replace("v_proj", "v_proj.base_layer")])
