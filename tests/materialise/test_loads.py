"""Written folders load as their base does, with or without its code, and code is never run on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from evomerge.errors import ExportError
from evomerge.materialise import loads
from evomerge.materialise.folder import write_folder
from evomerge.methods import METHODS
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_family
from helpers.folders import recipe_of

pytestmark = pytest.mark.usefixtures("stand_ins")

RAN = "ran.txt"
NAMES = METHODS.names()


def with_code(folder: Path, *, model_type: str = "llama") -> None:
    """Give a model code of its own, which leaves a file behind when it runs."""
    path = folder / "config.json"
    named = {"AutoConfig": "conf_tiny.TinyConfig", "AutoModelForCausalLM": "model_tiny.TinyModel"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": named, "model_type": model_type}))
    leave = f"from pathlib import Path\nPath({str(folder.parent / RAN)!r}).touch()\n"
    (folder / "conf_tiny.py").write_text(
        f"{leave}from transformers import LlamaConfig\n"
        f"class TinyConfig(LlamaConfig):\n    model_type = {model_type!r}\n"
    )
    (folder / "model_tiny.py").write_text(
        f"{leave}from transformers import LlamaForCausalLM\nfrom .conf_tiny import TinyConfig\n"
        "class TinyModel(LlamaForCausalLM):\n    config_class = TinyConfig\n"
    )


@pytest.mark.parametrize("model_type", ["llama", "tiny_llama_of_ones_own"])
def test_code_is_neither_run_nor_passed_on_unless_it_is_asked_for(
    tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folders = tiny_family(tmp_path / "models")
    for folder in folders.values():
        with_code(folder, model_type=model_type)
    notes: list[str] = []
    out = write_folder(recipe_of(folders), tmp_path / "plain", report=notes.append)
    assert not list(out.glob("*.py"))
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert any("conf_tiny.py" in note and "--carry-code" in note for note in notes)
    again = write_folder(recipe_of(folders), tmp_path / "coded", report=notes.append, carry_code=True)
    assert (again / "model_tiny.py").read_bytes() == (folders["base"] / "model_tiny.py").read_bytes()
    assert not (tmp_path / "models" / RAN).exists()
    loaded = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
    assert type(loaded).__name__ == "TinyModel"
    assert (tmp_path / "models" / RAN).exists()
    if model_type == "llama":
        assert type(AutoConfig.from_pretrained(out)).__name__ == "LlamaConfig"


def test_a_tokenizer_that_would_be_lost_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path / "models")
    elsewhere = tmp_path / "elsewhere.json"
    (folders["base"] / "tokenizer.json").rename(elsewhere)
    (folders["base"] / "tokenizer.json").symlink_to(elsewhere)
    with pytest.raises(ExportError, match=r"base: its tokenizer loads, and that of the merge wouldn't"):
        write_folder(recipe_of(folders), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_in_another_form_than_tokenizer_json_goes_along(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path / "models")
    for folder in folders.values():
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
        (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]))
        (folder / "tokenizer.json").unlink()
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["tokenizer_class"] = "GPT2Tokenizer"
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    out = write_folder(recipe_of(folders), tmp_path / "out")
    own, found = (AutoTokenizer.from_pretrained(folder) for folder in (folders["base"], out))
    assert found.get_vocab() == own.get_vocab()
    assert found("The river runs.")["input_ids"] == own("The river runs.")["input_ids"]


UNHURRIED = """
import sys
from evomerge.study.merge import merge
for recipe in sys.argv[2:]:
    merge(recipe, f"{sys.argv[1]}/{recipe.rpartition('/')[2]}")
sys.exit(", ".join({"transformers", "scipy.optimize", "lm_eval", "ray"} & {*sys.modules}) or None)
"""


@pytest.mark.slow
def test_models_of_the_same_settings_are_merged_without_what_takes_long_to_load(tmp_path: Path) -> None:
    """By every method: transformers alone takes longer to load than a small merge with all the rest."""
    folders = tiny_family(tmp_path / "models", experts="abc", dtype="bfloat16")
    (tmp_path / "recipes").mkdir()
    recipes = [tmp_path / "recipes" / name for name in NAMES]
    for path in recipes:
        method = METHODS.get(path.name)
        halves = {parameter.name: (parameter.low + parameter.high) / 2 for parameter in method.parameters}
        recipe = Recipe(
            base=ModelReference(path=str(folders["base"])),
            experts={name: ModelReference(path=str(folders[name])) for name in "abc"[: method.max_experts]},
            method=path.name,
            groups=(Group(name="all", coefficients=halves),),
        )
        path.write_text(recipe.to_yaml())
    done = subprocess.run(
        [sys.executable, "-c", UNHURRIED, tmp_path, *recipes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for path in recipes:
        assert type(AutoConfig.from_pretrained(tmp_path / path.name)).__name__ == "LlamaConfig"


@pytest.mark.parametrize(
    "change",
    [
        lambda base: (base / "tokenizer.json").write_text("{"),
        lambda base: (base / "config.json").write_text(
            json.dumps({**json.loads((base / "config.json").read_text()), "rope_theta": "fast"})
        ),
    ],
    ids=["tokenizer", "config"],
)
def test_a_folder_that_differs_from_the_base_is_loaded(
    tmp_path: Path, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = tiny_family(tmp_path / "models")
    base = Checkpoint.open(ModelReference(path=str(folders["base"])))
    asked: list[Path] = []
    monkeypatch.setattr(loads, "_config", lambda folder: asked.append(folder))
    copy = shutil.copytree(folders["base"], tmp_path / "copy")
    loads.check_loads(base, copy)
    assert asked == []
    nameless = {key: value for key, value in base.config.items() if key != "model_type"}
    (copy / "config.json").write_text(json.dumps(nameless))
    loads.check_loads(replace(base, config=nameless), copy)
    assert asked == [folders["base"], copy]
    asked.clear()
    shutil.copyfile(folders["base"] / "config.json", copy / "config.json")
    change(copy)
    with suppress(ExportError):
        loads.check_loads(base, copy)
    assert asked == [folders["base"], copy]
