"""Which language generated text is in, as a metric of a task: 1 for an item in the asked language, else 0.

Chooses who tells the language: py3langid for those that it knows, else GlotLID, or who is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evomerge.benchmark.lm_eval.identifiers import Identifier, glotlid, glotlid_file, py3langid
from evomerge.config.benchmark import BenchmarkConfig, LanguageConfig
from evomerge.errors import BenchmarkError, unknown

_INSTALL = "pip install 'evomerge[languages]'"
_FETCH = "`evomerge prefetch` with this config fetches its model, 1.7 GB"


def check_language(language: LanguageConfig, task: Any, place: str) -> None:
    """Refuse a language that can't be told, or a task that generates no text.

    Args:
        language: what is asked of the task's text.
        task: lm-eval's Task.
        place: of the entry in the config, for messages.

    Raises: BenchmarkError.
    """
    if task.OUTPUT_TYPE != "generate_until":
        raise BenchmarkError(
            f"{place}.language: {task.config.task} generates no text ({task.OUTPUT_TYPE}); remove it, or choose a "
            "task that does"
        )
    name = identifier_of(language, place)
    found = _had(glotlid if name == "glotlid" else py3langid, name, place)
    if found is not None and found.meant_by(language.code):
        return
    if name == "glotlid" and language.identifier is None:
        first = _had(py3langid, "py3langid", place)
        known = list(first.languages) if first is not None else []
        message = unknown("language", language.code, known)
        others = (
            f"GlotLID tells some 1,900 languages, if it is one of them: {_FETCH}"
            if found is None
            else f"nor is it one of the {len(found.languages)} that GlotLID tells"
        )
        raise BenchmarkError(
            f"{place}.language: {message} py3langid tells these {len(known)} alone, and takes text in any other "
            f"language for one of them; {others}"
        )
    if found is None:
        raise BenchmarkError(f"{place}.language: GlotLID's model isn't on this machine; {_FETCH}")
    raise BenchmarkError(f"{place}.language: {unknown('language', language.code, found.languages)} {name} tells these")


def identifier_of(language: LanguageConfig, place: str = "language") -> str:
    """Who tells a language: the one that is named, else py3langid if it can, else GlotLID. Raises: BenchmarkError."""
    if language.identifier is not None:
        return language.identifier
    first = _had(py3langid, "py3langid", place)
    return "py3langid" if first is not None and first.meant_by(language.code) else "glotlid"


def language_files(config: BenchmarkConfig) -> dict[str, Path]:
    """The files that languages of the config are told by and that don't come with a package, by name.

    Raises: BenchmarkError without what is to be installed.
    """
    path = glotlid_file() if needs_glotlid(config) else None
    return {} if path is None else {"languages/glotlid.bin": path}


def needs_glotlid(config: BenchmarkConfig) -> bool:
    """Whether GlotLID tells a language of the config. Raises: BenchmarkError without what is to be installed."""
    return any(entry.language is not None and identifier_of(entry.language) == "glotlid" for entry in config.tasks)


def in_language(texts: Sequence[str], code: str, identifier: str = "py3langid") -> float:
    """How many of an item's texts are in a language, as a fraction.

    Text without letters, such as a bare number, is in every language, since it is in no other one: whether
    it is an answer is for the task's own metric to say. No text at all is in none. Code counts as what its
    words look like. What has fewer than about six words is told less surely. Text that the identifier finds to be in
    no language that it knows isn't in the asked one; of py3langid that is only text in a script of none of
    its languages; other languages are taken for one of its own.

    Args:
        texts: the item's.
        code: ISO 639-1 or 639-3.
        identifier: "py3langid" or "glotlid".
    """
    return sum(_is_in(text, code, identifier) for text in texts) / len(texts) if texts else 0.0


def _is_in(text: str, code: str, name: str) -> bool:
    if not text.strip():
        return False
    if not any(letter.isalpha() for letter in text):
        return True
    identifier = glotlid() if name == "glotlid" else py3langid()
    if identifier is None:
        raise BenchmarkError(f"GlotLID's model isn't on this machine any more; {_FETCH}")
    return identifier.tell(text) in identifier.meant_by(code)


def _had(make: Callable[[], Identifier | None], name: str, place: str) -> Identifier | None:
    try:
        return make()
    except ImportError as error:
        package = "fasttext-predict" if name == "glotlid" else name
        raise BenchmarkError(f"{place}.language: telling languages needs {package}: {_INSTALL}") from error
