"""Prefetching models and benchmark data."""

from __future__ import annotations

from pathlib import Path

import pytest

import evomerge.models.hub
from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.recipe.sources import ModelReference
from evomerge.study.prefetch import Fetched, prefetch
from helpers.commands import run
from helpers.fasttext_file import write_identifier
from helpers.hub import serving
from helpers.language import generating
from helpers.search import write_config, write_task


@pytest.fixture
def config(tmp_path: Path, tiny_llama: dict[str, Path]) -> Path:
    return write_config(tmp_path / "x.yaml", tiny_llama, write_task(tmp_path / "tasks"))


def fetched(text: str) -> list[Fetched]:
    return list(prefetch(Config.from_yaml(text), where="x.yaml"))


def test_models_in_folders_stay_there_and_tasks_are_built(config: Path, tiny_llama: dict[str, Path]) -> None:
    found = fetched(config.read_text())
    assert [(one.kind, one.name, one.state) for one in found] == [
        ("model", "base", "folder"),
        ("model", "a", "folder"),
        ("model", "b", "folder"),
        ("task", "tiny_choice", "ready"),
    ]
    assert found[0].size_bytes == sum(path.stat().st_size for path in tiny_llama["base"].iterdir())


def test_a_model_of_the_hub_is_downloaded_once(
    config: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub: list[str] = []

    def snapshot(reference: ModelReference, *, local_files_only: bool) -> Path:
        if local_files_only and reference.path not in hub:
            raise FileNotFoundError(reference.path)
        hub.append(reference.path)
        return tiny_llama["a"]

    monkeypatch.setattr(evomerge.models.hub, "_snapshot", snapshot)
    text = config.read_text().replace(str(tiny_llama["a"]), "org/expert")
    assert [one.state for one in fetched(text)] == ["folder", "downloaded", "folder", "ready"]
    assert [one.state for one in fetched(text)] == ["folder", "cached", "folder", "ready"]


def test_one_that_cannot_be_had_does_not_stop_the_rest(config: Path, tiny_llama: dict[str, Path]) -> None:
    text = (
        config.read_text()
        .replace(str(tiny_llama["a"]), "org/expert")
        .replace("- tiny_choice", "- xcopa_sw\n  - tiny_choice")
    )
    found = fetched(text)
    assert [one.state for one in found] == ["folder", "failed", "folder", "failed", "ready"]
    assert "the hub can't be reached" in str(found[1].problem)
    assert "x.yaml: benchmark.tasks[0].task: xcopa_sw can't be loaded" in str(found[3].problem)


def test_a_task_is_named_by_its_place_in_the_config(config: Path) -> None:
    found = fetched(config.read_text().replace("- tiny_choice", "- tiny_choice\n  - tiny_chioce"))
    assert [one.state for one in found[3:]] == ["ready", "failed"]
    assert "x.yaml: benchmark.tasks[1].task: " in str(found[4].problem)


def test_without_the_base_no_task_can_be_built(config: Path, tiny_llama: dict[str, Path]) -> None:
    found = fetched(config.read_text().replace(str(tiny_llama["base"]), "org/base"))
    assert [one.state for one in found] == ["failed", "folder", "folder", "failed"]
    assert "made with the base's tokenizer" in str(found[3].problem)


def test_a_wrong_config_is_refused_before_anything_is_fetched(config: Path) -> None:
    with pytest.raises(ConfigError, match="unknown merge method"):
        fetched(config.read_text().replace("task_arithmetic", "task_arithmetics"))


def test_glotlid_is_fetched_for_a_language_that_py3langid_does_not_know(
    tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    write_identifier(tmp_path / "hub" / "cis-lmu" / "glotlid" / "model.bin", {"eng_Latn": ["the"], "twi_Latn": ["me"]})
    config = tmp_path / "x.yaml"
    config.write_text(generating(tmp_path / "task", tiny_llama, "tw").to_yaml())
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from evomerge.config.config import Config; from evomerge.study.prefetch import prefetch\n"
        "print([(one.name, one.state, one.problem) for one in prefetch(Config.from_file(sys.argv[1]))][3:])"
    )
    with serving(tmp_path / "hub") as hub:
        settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        settings["HF_HUB_DISABLE_XET"] = "1"

        def printed(**more: str) -> str:
            done = run([config], script=script, variables={**settings, **more})
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        first, again = printed(), printed(HF_HUB_OFFLINE="1")
        missing = printed(HF_HOME=str(tmp_path / "other"), HF_HUB_OFFLINE="1")
    named = "('the identifier of languages', '{}', None), ('tiny_choice', 'ready', None)"
    assert first == f"[{named.format('downloaded')}]"
    assert again == f"[{named.format('cached')}]"
    assert "GlotLID's model can't be fetched (LocalEntryNotFoundError)" in missing
    assert "('tiny_choice', 'failed'" in missing
