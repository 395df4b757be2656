"""What the pages show is true: snippets run, commands and names exist, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from evomerge.config.config import Config
from evomerge.mergekit.methods import COUNTERPARTS
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod
from evomerge.recipe.recipe import Recipe
from evomerge.testing.method_laws import LAWS
from evomerge.testing.models import tiny_checkpoint
from helpers.pages import PAGES, ROOT, anchors, prose, snippets, text_of
from helpers.patience import LONG_S
from helpers.search import write_config, write_task

GROUPS = {
    group
    for path in (ROOT / "evomerge").glob("*/__init__.py")
    for group in re.findall(r'group="([\w.]+)"', path.read_text(encoding="utf-8"))
}
"""Entry-point groups of all registries."""


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", prose(page)):
        name, _, anchor = target.partition("#")
        reference = re.fullmatch(r"api/(\w+)\.md", name)
        if reference and page.startswith("docs/"):
            assert importlib.import_module(f"evomerge.{reference[1]}")
            continue
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(os.path.relpath(path, ROOT)), target


@pytest.mark.parametrize("page", PAGES)
def test_files_and_folders_named_exist(page: str) -> None:
    for name in set(re.findall(r"`((?:configs|launch|benchmarks|evomerge|tests|docs)/[\w./]*)`", text_of(page))):
        assert (ROOT / re.sub(r"(/FAMILY)?/x\.py$", "", name)).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_dotted_names_can_be_imported(page: str) -> None:
    gone = {"evomerge.merge", "evomerge.propose", "evomerge.slices"} if page == "CHANGELOG.md" else set()
    for name in set(re.findall(r"`(evomerge(?:\.\w+)+)`", text_of(page))) - GROUPS - gone:
        parts = name.split(".")
        found = importlib.import_module(parts[0])
        for part in parts[1:]:
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_snippet_is_a_recipe_or_a_config_or_a_section_of_one(page: str) -> None:
    (whole,) = snippets("README.md", "yaml")
    for data in (data for text in snippets(page, "yaml") for data in yaml.safe_load_all(text)):
        if "evomerge" in data:
            assert Recipe.from_data(data).groups
        else:
            complete = data if "models" in data else {**yaml.safe_load(whole), **data}
            assert Config.from_yaml(yaml.safe_dump(complete)).merge.method in METHODS


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_shown_exists(page: str) -> None:
    import typer.main

    from evomerge.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"^evomerge (\w+)(.*)$", "\n".join(snippets(page, "sh", "bash")), flags=re.MULTILINE)
    shown += re.findall(r"`evomerge (\w+)([^`]*)`", prose(page))
    for name, rest in shown:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"\s(--[a-z-]+)", rest.partition("#")[0])) <= options, name


@pytest.mark.slow
def test_python_snippets_about_a_search_run(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from evomerge.cli import app

    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "experiment.yaml", tiny_llama, write_task(tmp_path / "tasks"))
    run("README.md", 0)
    assert (tmp_path / "merged-model" / "config.json").exists()
    assert "'kind': 'winner'" in capsys.readouterr().out

    assert CliRunner().invoke(app, ["items", "runs/first", "items.parquet"]).exit_code == 0
    for number in range(len(snippets("docs/run-directory.md", "python"))):
        run("docs/run-directory.md", number)
    assert "candidate" in capsys.readouterr().out


def test_the_python_snippet_about_alignment_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        tiny_checkpoint(tmp_path / f"model-{seed}", seed=seed)
    run("docs/alignment.md", 0)
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'aligned' / 'model-2'} ")


def test_python_snippets_about_merging_run(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(snippets("docs/merging.md", "yaml")[0])
    recipe["models"] = {
        "base": str(tiny_llama["base"]),
        "experts": {"maths": str(tiny_llama["a"]), "swahili": str(tiny_llama["b"])},
    }
    recipe["groups"][0]["layers"], recipe["groups"][1] = [0, 0], {**recipe["groups"][1], "layers": [1, 1]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run("docs/merging.md", 0)
    assert (tmp_path / "merged-model" / "recipe.yaml").exists()
    run("docs/models.md", 0)


def test_python_snippets_about_looking_at_models_run(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, model in (("base-7b", "base"), ("maths-7b", "a"), ("swahili-7b", "b")):
        (tmp_path / name).symlink_to(tiny_llama[model])
    run("docs/analysis.md", 0)
    assert "nearly orthogonal" in capsys.readouterr().out


def run(page: str, number: int) -> None:
    """Run a snippet as a script would be."""
    exec(compile(snippets(page, "python")[number], f"{page}, snippet {number}", "exec"), {"__name__": "snippet"})


def test_every_other_python_snippet_is_run_by_a_test() -> None:
    tested = {"README.md", "CONTRIBUTING.md", "docs/run-directory.md", "docs/merging.md", "docs/models.md"}
    tested |= {"docs/alignment.md"}
    assert {page for page in PAGES if snippets(page, "python")} == tested | {"docs/extending.md", "docs/analysis.md"}


def test_the_merge_method_of_the_page_for_contributors_keeps_every_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = snippets("CONTRIBUTING.md", "python")
    (tmp_path / "unanimous_example.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with METHODS.extended({"unanimous": "unanimous_example:Unanimous"}):
        method: type[MergeMethod] = METHODS.get("unanimous")
        assert method.name == "unanimous"
        for law in LAWS:
            law(method)


@pytest.mark.slow
def test_the_algorithm_of_the_page_on_extending_keeps_every_law_by_its_own_test(tmp_path: Path) -> None:
    algorithm, test = snippets("docs/extending.md", "python")
    (tmp_path / "climb.py").write_text(algorithm, encoding="utf-8")
    (tmp_path / "test_climb.py").write_text(test, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_climb.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LONG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = snippets("docs/extending.md", "toml")
    ((group, points),) = tomllib.loads(entry)["project"]["entry-points"].items()
    assert group in GROUPS
    classes = [node.name for node in ast.parse(algorithm).body if isinstance(node, ast.ClassDef)]
    assert points == {"climb": f"climb:{classes[0]}"}


def test_the_page_on_extending_has_every_group_of_entry_points() -> None:
    assert set(re.findall(r"\| `(evomerge\.\w+)` \|", text_of("docs/extending.md"))) == GROUPS


def test_the_page_on_merging_has_every_method_once() -> None:
    rows = re.findall(r"^\| [\w ]+ \| (`.*`) \|$", text_of("docs/merging.md"), flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(METHODS.names())


def test_the_page_on_mergekit_names_every_method_and_every_key_that_is_refused() -> None:
    page = text_of("docs/mergekit.md")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page.partition("## Other defaults")[0], flags=re.MULTILINE)
    assert [theirs for theirs, _ in rows] == [counterpart.theirs for counterpart in COUNTERPARTS]
    for counterpart, (_, ours) in zip(COUNTERPARTS, rows, strict=True):
        assert f"`{counterpart.ours}`" in ours
        assert all(f"`{name}`" in page for name in counterpart.inert)
    for key in (
        "modules", "chat_template", "tokenizer.tokens", "tokenizer.pad_to_multiple_of", "residual_weight",
        "override_architecture",
    ):  # fmt: skip
        assert f"`{key}`" in page.partition("## Refused by name")[2], key
