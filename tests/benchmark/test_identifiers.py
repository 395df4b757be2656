"""Who tells a language: py3langid, or GlotLID with a model in the hub's cache."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import huggingface_hub.constants
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.benchmark.lm_eval.fasttext_file import labels_of
from evomerge.benchmark.lm_eval.identifiers import GlotLID, Py3langid
from evomerge.benchmark.lm_eval.language import identifier_of, in_language, needs_glotlid
from evomerge.benchmark.lm_eval.language_codes import MEMBERS, THREE_LETTERS, macrolanguage
from evomerge.config.benchmark import BenchmarkConfig, LanguageConfig
from evomerge.config.config import Config
from evomerge.errors import BenchmarkError, ResumeError
from evomerge.study.search import search
from helpers.fasttext_file import put_in_cache, write_identifier
from helpers.language import generating

pytestmark = pytest.mark.slow

WORDS = {
    "eng_Latn": ["children", "read"],
    "twi_Latn": ["mmofra", "kenkan"],
    "ayr_Latn": ["wawanakax", "liyipxi"],
    "gug_Latn": ["mitã", "omoñe'ẽ"],
    "fas_Arab": ["کودکان"],
    "fil_Latn": ["nagbabasa"],
    "swh_Latn": ["watoto", "wanasoma"],
    "swc_Latn": ["batoto"],
    "und_Xsux": ["𒐰𒔓"],
    "zxx_Latn": ["ïðàâèëà"],
}


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return put_in_cache(tmp_path / "cache", WORDS)


def test_glotlid_tells_by_the_codes_of_both_standards_and_by_macrolanguages(cached: Path) -> None:
    for code, text in [
        *(("tw", "mmofra kenkan"), ("twi", "mmofra\nkenkan"), ("aka", "Mmofra kenkan")),
        *(("ay", "wawanakax liyipxi"), ("aym", "wawanakax"), ("ayr", "liyipxi")),
        *(("gn", "mitã"), ("grn", "mitã"), ("gug", "mitã"), ("tl", "nagbabasa"), ("fil", "nagbabasa")),
        *(("fa", "کودکان"), ("pes", "کودکان"), ("sw", "batoto"), ("swa", "watoto"), ("swh", "watoto")),
    ]:
        assert in_language([text], code, "glotlid") == 1.0, code
        assert in_language(["children read"], code, "glotlid") == 0.0, code
    assert in_language(["batoto"], "swh", "glotlid") == 0.0


def test_text_that_it_finds_to_be_in_no_known_language_is_in_none(cached: Path) -> None:
    for text in ("𒐰𒔓", "ïðàâèëà"):
        assert GlotLID(next(cached.rglob("model.bin"))).tell(text) is None
    assert in_language(["ïðàâèëà", "mmofra"], "twi", "glotlid") == 0.5


def test_py3langid_takes_no_text_in_a_script_of_none_of_its_languages_for_one_of_them() -> None:
    identifier = Py3langid()
    for text in ("ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ", "ⵜⴰⵎⴰⵣⵉⵖⵜ ⵜⴰⵏⴰⵡⴰⵢⵜ", "ߒߞߏ ߟߊ߫ ߞߊ߲", "ᱥᱟᱱᱛᱟᱲᱤ ᱯᱟᱹᱨᱥᱤ", "ᐃᓄᒃᑎᑐᑦ ᐅᖃᐅᓯᖅ in"):
        assert identifier.tell(text) is None
    assert identifier.tell("The children read books, says ᏣᎳᎩ.") == "en"


def test_py3langid_tells_what_it_knows_and_glotlid_all_else(cached: Path) -> None:
    assert identifier_of(LanguageConfig(code="sw")) == identifier_of(LanguageConfig(code="swh")) == "py3langid"
    assert identifier_of(LanguageConfig(code="tw")) == "glotlid"
    assert identifier_of(LanguageConfig(code="sw", identifier="glotlid")) == "glotlid"
    tasks = [{"task": "a"}, {"task": "b", "language": "sw"}]
    assert not needs_glotlid(BenchmarkConfig.model_validate({"tasks": tasks}))
    assert needs_glotlid(BenchmarkConfig.model_validate({"tasks": [*tasks, {"task": "c", "language": "ay"}]}))


def test_the_tables_of_codes_agree_with_each_other() -> None:
    assert len(THREE_LETTERS) == 184
    assert all(len(two) == 2 and len(three) == 3 for two, three in THREE_LETTERS.items())
    assert len(set(THREE_LETTERS.values())) == len(THREE_LETTERS)
    assert all(macrolanguage(member) == code for code, members in MEMBERS.items() for member in members)
    assert macrolanguage("eng") is None


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("tw", r"tasks\[0\]\.language: unknown language 'tw'.*some 1,900 languages.*evomerge prefetch"),
        ({"code": "sw", "identifier": "glotlid"}, r"GlotLID's model isn't on this machine; `evomerge prefetch`"),
    ],
)
def test_without_its_model_it_is_said_how_to_fetch_it(
    tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch, language: object, message: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "nothing"))
    with pytest.raises(BenchmarkError, match=message):
        search(generating(tmp_path, tiny_llama, language), tmp_path / "run")


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("nv", r"unknown language 'nv'.*nor is it one of the 8 that GlotLID tells"),
        ({"code": "und", "identifier": "glotlid"}, r"unknown language 'und'"),
        ({"code": "en", "identifier": "lid"}, "identifier"),
    ],
)
def test_what_neither_tells_is_refused(
    tmp_path: Path, tiny_llama: dict[str, Path], cached: Path, language: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        search(generating(tmp_path, tiny_llama, language), tmp_path / "run")


def test_another_model_of_glotlid_is_another_experiment(
    tmp_path: Path, tiny_llama: dict[str, Path], cached: Path
) -> None:
    config = generating(tmp_path, tiny_llama, "tw")
    search(config, tmp_path / "run")
    more = Config.from_data({**config.model_dump(), "search": {**config.search.model_dump(), "evaluations": 24}})
    put_in_cache(cached, {**WORDS, "nav_Latn": ["diné"]})
    with pytest.raises(ResumeError, match=r"content of its files has changed: languages/glotlid\.bin"):
        search(more, tmp_path / "run")


@given(cut=st.integers(0, 10_000), flip=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_damaged_file_is_refused_or_has_the_same_form(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int, bit: int
) -> None:
    path = write_identifier(tmp_path_factory.mktemp("model") / "model.bin", WORDS)
    assert labels_of(path) == [f"__label__{label}" for label in WORDS]
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    with pytest.raises(BenchmarkError, match=r"model\.bin: can't be read as a fastText model .*; fetch it again"):
        GlotLID(path)
    damaged = bytearray(whole)
    damaged[flip % len(whole)] ^= 1 << bit
    path.write_bytes(damaged)
    with suppress(ValueError):
        assert len(labels_of(path)) == len(WORDS)
