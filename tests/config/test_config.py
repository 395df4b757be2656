"""The YAML: what is refused and how, short forms, and what makes an experiment the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import ConfigError

MINIMAL = """
models: {base: some/base, experts: {maths: some/maths, swahili: {path: some/swahili, revision: main}}}
benchmark: {tasks: [mgsm_direct_sw]}
"""


def with_section(text: str) -> str:
    return MINIMAL + text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("searhc: {}", r"x\.yaml: searhc: unknown key 'searhc'\. Did you mean 'search'\?"),
        ("search: {evaluation: 3}", r"search\.evaluation: .*Did you mean 'evaluations'"),
        ("search: {evaluations: 0}", r"search\.evaluations: must be at least 1 \(found 0\)"),
        ("space: {parameters: {weight: {low: 1, high: 0}}}", r"space\.parameters\.weight: low 1 is not below high 0"),
        ("space: {parameters: {weight: {hihg: 1}}}", r"weight\.hihg: .*Did you mean 'high'"),
        ("space: {kinds: [attn]}", r"space\.kinds: unknown module kind 'attn'"),
        ("execution: {dtype: int8}", r"execution\.dtype: .*\(found 'int8'\)"),
        ("models: {base: a}", r"models\.experts: missing"),
        ("benchmark: {tasks: [a, a]}", r"benchmark\.tasks: task 'a' is listed twice"),
        ("benchmark: {tasks: [a], splits: {test: {fraction: 0.2, items: 3}}}", r"splits\.test: give either"),
        ("models: {base: a, experts: {winner: b}}", r"models\.experts: expert name 'winner'"),
    ],
)
def test_mistakes_name_file_key_value_and_remedy(text: str, message: str) -> None:
    sections = dict(line.split(":", 1) for line in MINIMAL.strip().splitlines())
    key, _, rest = text.partition(":")
    sections[key] = rest
    document = "\n".join(f"{name}:{value}" for name, value in sections.items())
    with pytest.raises(ConfigError, match=message):
        Config.from_yaml(document, where="x.yaml")


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Config.from_yaml(with_section("search: {seeed: 1}\nexecution: {workers: 0}"), where="x.yaml")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "", "just words"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        Config.from_yaml(text, where="x.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: can't be read"):
        Config.from_file(tmp_path / "none.yaml")


def test_short_forms_mean_what_they_say() -> None:
    config = Config.from_yaml(
        with_section("space: {parameters: {density: 0.5}}").replace(
            "tasks: [mgsm_direct_sw]", "tasks: [a], splits: {search: validation, test: 0.25}, include_path: tasks"
        )
    )
    assert config.benchmark.splits.search.split == "validation"
    assert config.benchmark.splits.test.fraction == 0.25
    assert config.benchmark.include_path == ("tasks",)
    assert config.space.parameters["density"].value == 0.5
    assert config.models.experts["swahili"].revision == "main"


def test_what_is_written_reads_back_the_same() -> None:
    config = Config.from_yaml(MINIMAL)
    assert Config.from_yaml(config.to_yaml()) == config


def test_local_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(MINIMAL)
    config = Config.from_file(tmp_path / "x.yaml")
    assert (config.models.base.path, config.models.experts["maths"].path) == ("some/base", "some/maths")
    (tmp_path / "some" / "base").mkdir(parents=True)
    config = Config.from_file(tmp_path / "x.yaml")
    assert config.models.base.path == str((tmp_path / "some" / "base").resolve())
    # No hub id, since its first part is a folder here.
    assert config.models.experts["maths"].path == str((tmp_path / "some" / "maths").resolve())


def test_workers_and_budget_do_not_make_another_experiment_but_the_seed_does() -> None:
    plain = Config.from_yaml(MINIMAL).identity()
    assert Config.from_yaml(with_section("execution: {workers: 4}\nsearch: {evaluations: 999}")).identity() == plain
    assert Config.from_yaml(with_section("search: {seed: 1}")).identity() != plain
    assert Config.from_yaml(with_section("execution: {dtype: float32}")).identity() != plain


def test_the_identity_of_a_search_over_tasks_has_no_word_on_other_kinds_of_benchmark() -> None:
    config = Config.from_data({"models": {"base": "b", "experts": {"a": "a"}}, "benchmark": {"tasks": ["x"]}})
    assert not {"labels", "function"} & set(config.identity()["benchmark"])
