"""`evomerge analyse`: tables that fit a pipe, sentences, and a file with every figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.testing.models import tiny_checkpoint, tiny_family


def test_it_shows_experts_pairs_groups_and_what_they_mean(cli: Any, tiny_llama: dict[str, Path]) -> None:
    done = cli("analyse", *tiny_llama.values())
    assert (done.exit_code, done.stderr) == (0, "")
    rows = {tuple(line.split()[:1]): line.split() for line in done.stdout.splitlines() if line.split()}
    assert rows["a",][-3].replace(".", "").isdigit()
    assert "a, b" in done.stdout
    assert {("attention",), ("mlp",), ("norm",), ("embedding",), ("layer",)} <= rows.keys()
    assert "What it means\n- The task vectors are nearly orthogonal" in done.stdout
    # Sentences may be longer: in a pipe, a line stays a line.
    tables = done.stdout.split("What it means")[0]
    assert max(len(line) for line in tables.splitlines() if "─" in line or line[:1].isspace()) <= 80


def test_many_experts_fit_eighty_columns(cli: Any, tmp_path: Path) -> None:
    family = tiny_family(tmp_path, experts=[f"expert-number-{number}" for number in range(6)], layers=1)
    done = cli("analyse", *family.values(), "--spectra", "none")
    assert done.exit_code == 0
    assert "least" in done.stdout
    assert "–" in done.stdout
    rules = [line for line in done.stdout.splitlines() if "─" in line]
    assert len(rules) == 3
    assert max(map(len, rules)) <= 80


def test_one_expert_has_no_pairs(cli: Any, tiny_llama: dict[str, Path]) -> None:
    done = cli("analyse", tiny_llama["base"], tiny_llama["a"])
    assert done.exit_code == 0
    assert "pair" not in done.stdout
    assert "conflicting" not in done.stdout


def test_a_file_gets_every_figure(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    out = tmp_path / "analysis.json"
    done = cli("analyse", *tiny_llama.values(), "--json", out)
    assert done.stdout.endswith(f"Wrote {out}\n")
    data = json.loads(out.read_text(encoding="utf-8"))
    assert data["models"]["experts"] == {"a": str(tiny_llama["a"]), "b": str(tiny_llama["b"])}
    sentences = [line.removeprefix("- ") for line in done.stdout.splitlines() if line.startswith("- ")]
    assert [verdict["text"] for verdict in data["verdicts"]] == sentences


def test_a_model_of_a_config_that_is_not_there_is_named_by_file_and_key(
    cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text(
        f"models: {{base: {tiny_llama['base']}, experts: {{maths: ./none}}}}\nbenchmark: {{tasks: [any]}}\n"
    )
    done = cli("analyse", config)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {config}: models.experts.maths: {tmp_path / 'none'}: no such folder")


def test_a_config_is_looked_at_by_its_models(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text(
        f"models: {{base: {tiny_llama['base']}, experts: {{maths: {tiny_llama['a']}}}}}\nbenchmark: {{tasks: [any]}}\n"
    )
    done = cli("analyse", config, "--spectra", "none")
    assert done.exit_code == 0
    assert "maths" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("base",), "expected a config, or a base and at least one expert"),
        (("base", "a", "--top", "2"), "top: expected a fraction"),
        (("base", "a", "--json", "no/such/folder/x.json"), "its folder isn't there"),
        (("base", "nowhere/at-all"), "nowhere/at-all"),
    ],
)
def test_what_cant_be_is_refused_in_words(
    cli: Any, tiny_llama: dict[str, Path], arguments: tuple[str, ...], told: str
) -> None:
    done = cli("analyse", *(tiny_llama.get(one, one) for one in arguments))
    assert done.exit_code == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_models_of_another_depth_are_refused(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    other = tiny_checkpoint(tmp_path / "other", layers=3)
    done = cli("analyse", tiny_llama["base"], other)
    assert done.exit_code == 1
    assert "has 3 layers, the base has 2" in done.stderr


def test_texts_show_gradients_at_every_model(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"This is the text of number {name}, which says little.")
    texts = ("--text", tmp_path / "one.txt", "--text", tmp_path / "two.txt")
    out = tmp_path / "x.json"
    done = cli("analyse", *tiny_llama.values(), "--spectra", "none", "--json", out, *texts)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "against gradient" in done.stdout
    assert "one, two" in done.stdout
    data = json.loads(out.read_text())["gradients"]
    assert data["models"].keys() == {"base", "a", "b"}
    assert data["descent"].keys() == {"a", "b"}
    assert -1 <= data["models"]["base"]["cosine"]["one"]["two"] <= 1
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "one.txt").write_text("")
    refused = cli("analyse", *tiny_llama.values(), "--text", tmp_path / "empty" / "one.txt")
    assert refused.exit_code == 1
    assert "one.txt" in refused.stderr
    twice = cli("analyse", *tiny_llama.values(), *texts, "--text", tmp_path / "empty" / "one.txt")
    assert "is given already" in twice.stderr


def test_a_page_shows_what_was_found(cli: Any, tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    (tmp_path / "sums.txt").write_text("one and one is two. " * 20)
    page = tmp_path / "new" / "page.html"
    done = cli("analyse", *tiny_llama.values(), "--text", tmp_path / "sums.txt", "--html", page)
    assert (done.exit_code, done.stderr) == (0, "")
    text = page.read_text()
    assert "The task vectors are nearly orthogonal" in text
    assert text.count("<figure>") == 5
