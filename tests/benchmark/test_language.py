"""The language of generated text: told, and what follows for a search."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import evomerge.benchmark.lm_eval.language
from evomerge.benchmark.lm_eval.identifiers import ALIASES, Py3langid, py3langid
from evomerge.benchmark.lm_eval.language import in_language
from evomerge.config.benchmark import LanguageConfig
from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, ConfigError
from evomerge.report.finding import finding
from evomerge.report.rescore import rescore
from evomerge.run.directory import open_run
from evomerge.run.evaluation import Evaluation
from evomerge.score.objective import INFEASIBLE, LANGUAGE, LanguageRule, Objective
from evomerge.study.export import export
from evomerge.study.search import search
from helpers.language import generating

SENTENCES = {
    "sw": "Watoto wanasoma vitabu shuleni kila siku asubuhi.",
    "yo": "Ọmọ náà ń ka ìwé ní ilé-ẹ̀kọ́ ní òwúrọ̀.",
    "eu": "Haurrek goizero liburuak irakurtzen dituzte eskolan.",
    "bn": "শিশুরা প্রতিদিন সকালে স্কুলে বই পড়ে।",
    "ja": "子供たちは毎朝学校で本を読みます。",
    "ro": "Copiii citesc cărți la școală în fiecare dimineață.",
    "en": "The children read books at school every morning.",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_sentences_in_the_languages_of_the_configs_are_told_apart(code: str) -> None:
    for other, sentence in SENTENCES.items():
        assert in_language([sentence], code) == float(other == code)


def test_numbers_are_in_every_language_and_nothing_is_in_none() -> None:
    assert in_language([" 42.", "$3 + 4 = 7"], "sw") == 1.0
    assert in_language(["", " \n"], "sw") == 0.0
    assert in_language([], "sw") == 0.0
    assert in_language([SENTENCES["sw"], SENTENCES["en"], "", "7"], "sw") == 0.5


@pytest.mark.parametrize(
    ("alias", "code", "sentence"),
    [
        ("gn", "gug", "Che réra Juan ha aiko Paraguaype, mba'éichapa reime."),
        ("grn", "gug", "Che réra Juan ha aiko Paraguaype, mba'éichapa reime."),
        ("swh", "sw", SENTENCES["sw"]),
        ("yor", "yo", SENTENCES["yo"]),
        ("jpn", "ja", SENTENCES["ja"]),
    ],
)
def test_codes_of_both_standards_name_a_language(alias: str, code: str, sentence: str) -> None:
    assert in_language([sentence], alias) == in_language([sentence], code) == 1.0
    assert in_language([SENTENCES["en"]], alias) == 0.0


@pytest.mark.slow
def test_every_alias_leads_to_a_language_that_the_identifier_knows_and_none_hides_one() -> None:
    known, aliases = set(Py3langid().languages), ALIASES
    assert set(aliases.values()) <= known
    assert not aliases.keys() & known


@pytest.mark.parametrize(
    ("code", "folder"), [("sw", "swh_Latn"), ("yo", "yor_Latn"), ("eu", "eus_Latn"), ("ha", "hau_Latn")]
)
def test_real_sentences_are_told_even_when_cut_short(shared_data: Path, code: str, folder: str) -> None:
    lines = (shared_data / "sib200" / folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) > 100
    assert sum(in_language([text], code) for text in texts) / len(texts) >= 0.98
    assert sum(in_language([" ".join(text.split()[:6])], code) for text in texts) / len(texts) >= 0.93


def test_penalty_and_requirement_follow_from_the_share() -> None:
    objective = Objective(
        metrics={"a": "acc,none", "b": "acc,none"},
        weights={"a": 1.0, "b": 3.0},
        higher_is_better={"a": True, "b": True},
        languages={"a": LanguageRule(penalty=0.5), "b": LanguageRule(at_least=0.9, penalty=0.2)},
    )
    aggregates = {"a": {"acc,none": 1.0, LANGUAGE: 0.4}, "b": {"acc,none": 1.0, LANGUAGE: 0.75}}
    sizes = {"a": 10, "b": 10}
    assert objective.penalty(aggregates, sizes) == pytest.approx(0.25 * 0.5 * 0.6 + 0.75 * 0.2 * 0.25)
    assert objective.shortfall(aggregates) == pytest.approx(0.15)


def test_whatever_misses_a_requirement_comes_after_everything_that_meets_it() -> None:
    def fitness(score: float, **more: float) -> float:
        evaluation = Evaluation(trial=0, split="search", score=score, **more)  # type: ignore[arg-type]
        again = Evaluation.from_data(json.loads(evaluation.to_line()), None)
        assert again.fitness == evaluation.fitness
        assert again.fitness is not None
        return again.fitness

    falling = [
        fitness(0.5),
        fitness(0.9, penalty=0.5),
        fitness(-5000.0),
        fitness(0.9, shortfall=0.1),
        fitness(1.0, shortfall=0.3),
    ]
    assert falling == sorted(falling, reverse=True)
    assert falling[3] < -INFEASIBLE < falling[2]


def test_a_bare_code_only_measures() -> None:
    assert LanguageConfig.model_validate("sw") == LanguageConfig(code="sw")
    with pytest.raises(ConfigError, match=r"tasks\[0\]\.language\.at_least: must be at most 1"):
        Config.from_yaml(
            "models: {base: x, experts: {a: y}}\nbenchmark: {tasks: [{task: t, language: {code: sw, at_least: 90}}]}"
        )


class Parity:
    """Stands in for the identifier, since what tiny models write is in no language: as varied, and as deterministic."""

    languages = ("sw", "en")

    def meant_by(self, code: str) -> frozenset[str]:
        return frozenset({code} & set(self.languages))

    def tell(self, text: str) -> str:
        return "sw" if sum(map(ord, text)) % 3 else "en"


@pytest.mark.slow
def test_a_search_keeps_to_the_language_that_it_must(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evomerge.benchmark.lm_eval.language, "py3langid", Parity)
    free = generating(tmp_path / "free", tiny_llama, {"code": "sw", "penalty": 2.0})
    search(free, tmp_path / "free_run")
    shares = sorted(
        found.aggregates["tiny_choice"][LANGUAGE] for found in open_run(tmp_path / "free_run").ledger().evaluations()
    )
    assert shares[0] < shares[-1]
    limit = shares[len(shares) // 2]
    bound = generating(tmp_path / "bound", tiny_llama, {"code": "sw", "at_least": limit})
    result = search(bound, tmp_path / "bound_run").data
    evaluations = [
        found for found in open_run(tmp_path / "bound_run").ledger().evaluations() if found.split == "search"
    ]
    kept = [found.fitness for found in evaluations if found.aggregates["tiny_choice"][LANGUAGE] >= limit]
    missed = [found.fitness for found in evaluations if found.aggregates["tiny_choice"][LANGUAGE] < limit]
    assert kept
    assert missed
    assert min(kept) > max(missed)  # type: ignore[type-var]
    winner = next(model for model in result["search"]["models"] if model["kind"] == "winner")
    assert winner["languages"]["tiny_choice"] >= limit
    assert result["languages"]["tiny_choice"] == {
        "code": "sw",
        "at_least": limit,
        "identifier": "py3langid",
        "penalty": None,
    }
    share = next(model for model in result["test"]["models"] if model["kind"] == "winner")["languages"]["tiny_choice"]
    assert f"Of its answers to tiny_choice, {share:.0%} are in the asked language (sw)" in finding(result)
    export(tmp_path / "bound_run", tmp_path / "out")
    assert "in the asked language (sw)" in (tmp_path / "out" / "README.md").read_text()
    # Ranked anew by the same objective, trials keep their fitness; the language itself can be the metric.
    again = {item.trial.number: item.fitness for item in rescore(tmp_path / "bound_run")}
    assert again == {found.trial: pytest.approx(found.fitness) for found in evaluations}
    by_language = rescore(tmp_path / "bound_run", metrics={"tiny_choice": "language"})
    assert {item.score for item in by_language} == {found.aggregates["tiny_choice"][LANGUAGE] for found in evaluations}


def test_an_infeasible_fitness_is_shown_in_words() -> None:
    from evomerge.score.numbers import score

    assert score(-INFEASIBLE - 0.25) == "infeasible"
    assert score(-12.5) == "-12.5000"


@pytest.mark.parametrize(
    ("language", "output", "message"),
    [
        ("xx", "generate_until", r"tasks\[0\]\.language: unknown language 'xx'"),
        (
            "ay",
            "generate_until",
            r"unknown language 'ay'.* these 140 alone, and takes text in any other",
        ),
        ("tw", "generate_until", r"unknown language 'tw'"),
        ("sw", "loglikelihood", r"tasks\[0\]\.language: tiny_choice generates no text \(loglikelihood\)"),
    ],
)
def test_a_language_that_cannot_be_told_is_refused(
    tmp_path: Path, tiny_llama: dict[str, Path], language: str, output: str, message: str
) -> None:
    with pytest.raises(BenchmarkError, match=message):
        search(generating(tmp_path, tiny_llama, language, output), tmp_path / "run")


def test_without_the_identifier_it_is_said_what_to_install(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    py3langid.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(BenchmarkError, match=r"pip install 'evomerge\[languages\]'"):
        search(generating(tmp_path, tiny_llama, "sw"), tmp_path / "run")
