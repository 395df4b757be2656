"""What tells the language of a text: py3langid, whose model travels with it, and GlotLID, whose model is on the hub.

py3langid knows 140 languages. Of sentences, questions and news in Swahili, Yoruba, Basque, Bengali, Hausa, Igbo,
Amharic, Telugu and Thai it names 99 to 100% right, cut to six words 97 to 100%, to three words 79 to 100%; close
relatives are harder (Xhosa 92, Zulu 90, Southern Sotho 94%). GlotLID (v3) knows 1,874 languages, some in several
scripts, and has labels for text that is in none and for scripts that it has seen no language in.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from evomerge.benchmark.lm_eval.fasttext_file import labels_of
from evomerge.benchmark.lm_eval.language_codes import MEMBERS, macrolanguage, three_letters
from evomerge.errors import BenchmarkError

GLOTLID = "cis-lmu/glotlid"
"""The repository on the hub that GlotLID's model is in."""

_MODEL = "model.bin"
_NO_LANGUAGE = frozenset({"und", "zxx", "mis", "mul"})
"""ISO 639's codes for what isn't, or can't be told to be, in one language."""

# Codes of ISO 639-1 and 639-3 for what py3langid knows under another one: the other standard's code of the same
# language, or of the group whose written form it is, such as Guarani for Paraguayan Guarani.
_PAIRS = """
gn:gug grn:gug ff:fuv ful:fuv ki:kik nb:no nob:no nor:no nno:nn iw:he in:id fil:tl tgl:tl afr:af amh:am arg:an
ara:ar arb:ar asm:as aze:az azj:az bak:ba bel:be bul:bg ben:bn bre:br bos:bs cat:ca ces:cs cym:cy dan:da deu:de
dzo:dz ell:el eng:en epo:eo spa:es est:et ekk:et eus:eu fas:fa pes:fa fin:fi fao:fo fra:fr fry:fy gle:ga gla:gd
glg:gl guj:gu hau:ha heb:he hin:hi hrv:hr hat:ht hun:hu hye:hy ind:id ibo:ig isl:is ita:it jpn:ja jav:jv kat:ka
kaz:kk khm:km kan:kn kor:ko kur:ku kmr:ku kir:ky lat:la ltz:lb lug:lg lin:ln lao:lo lit:lt lav:lv lvs:lv mlg:mg
plt:mg mkd:mk mal:ml mon:mn khk:mn mar:mr msa:ms zsm:ms mlt:mt mya:my nep:ne npi:ne nld:nl oci:oc orm:om gaz:om
ori:or ory:or pan:pa pol:pl pus:ps pbt:ps por:pt que:qu quy:qu quz:qu ron:ro rus:ru kin:rw san:sa sme:se sin:si
slk:sk slv:sl sna:sn som:so sqi:sq als:sq srp:sr sot:st swe:sv swa:sw swh:sw tam:ta tel:te tgk:tg tha:th tuk:tk
tur:tr tat:tt uig:ug ukr:uk urd:ur uzb:uz uzn:uz vie:vi vol:vo wln:wa xho:xh yor:yo zho:zh cmn:zh zul:zu
"""
ALIASES = dict(pair.split(":") for pair in _PAIRS.split())
"""py3langid's code of a language by others of it."""


_NAMES = """
LATIN CYRILLIC GREEK ARABIC HEBREW DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU
KANNADA MALAYALAM SINHALA THAI LAO TIBETAN MYANMAR GEORGIAN HANGUL ETHIOPIC KHMER CJK
HIRAGANA KATAKANA KATAKANA-HIRAGANA ARMENIAN MODIFIER FULLWIDTH HALFWIDTH FEMININE MASCULINE MICRO KELVIN ANGSTROM
IDEOGRAPHIC MATHEMATICAL
"""
_SCRIPTS = frozenset(_NAMES.split())
"""First words of the names that Unicode gives to letters of the scripts that py3langid's languages are written in."""


class Identifier(Protocol):
    """Tells the language of a text."""

    @property
    def languages(self) -> Collection[str]:
        """Codes of the languages that it tells, as it names them."""
        ...

    def meant_by(self, code: str) -> frozenset[str]:
        """Those of its languages that a code of ISO 639-1 or 639-3 stands for; none if it can't tell them."""
        ...

    def tell(self, text: str) -> str | None:
        """The language of a text with letters; None where it finds that it knows none that this can be."""
        ...


class Py3langid:
    """The identifier of 140 languages that needs nothing from the network."""

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._model: Any = LanguageIdentifier.from_model_file(MODEL_FILE)

    @property
    def languages(self) -> list[str]:
        """Codes of ISO 639-1, or 639-3 where that has none."""
        return list(self._model.labels)

    def meant_by(self, code: str) -> frozenset[str]:
        """See Identifier."""
        label = code if code in self._model.labels else ALIASES.get(code, code)
        return frozenset({label} & set(self._model.labels))

    def tell(self, text: str) -> str | None:
        """See Identifier. Text in another language than its 140 is taken for one of them, unless its script is new."""
        letters = [letter for letter in text if letter.isalpha()]
        foreign = sum(unicodedata.name(letter, "").partition(" ")[0] not in _SCRIPTS for letter in letters)
        if 2 * foreign >= max(1, len(letters)):
            return None
        label = str(self._model.classify(text)[0])
        return None if label in _NO_LANGUAGE else label


class GlotLID:
    """The identifier of 1,874 languages, a fastText model.

    Args:
        path: of its file.

    Raises: BenchmarkError if it isn't one; ImportError without fasttext-predict.
    """

    def __init__(self, path: Path) -> None:
        import fasttext

        try:
            # fastText itself reads a damaged file for ever.
            labels = labels_of(path)
            self._model: Any = fasttext.load_model(str(path))
        except (OSError, ValueError, RuntimeError) as error:
            raise BenchmarkError(f"{path}: can't be read as a fastText model ({error}); fetch it again") from error
        self._languages = frozenset(map(_language, labels)) - _NO_LANGUAGE
        if not self._languages:
            raise BenchmarkError(f"{path}: a fastText model, but none that tells languages; fetch it again")

    @property
    def languages(self) -> frozenset[str]:
        """Codes of ISO 639-3."""
        return self._languages

    def meant_by(self, code: str) -> frozenset[str]:
        """See Identifier. A macrolanguage is any of its languages; a language of one told as a whole is that one."""
        code = {"tgl": "fil"}.get(three_letters(code), three_letters(code))
        known = self._languages.intersection({code, *MEMBERS.get(code, ())})
        return known or self._languages.intersection({macrolanguage(code) or code})

    def tell(self, text: str) -> str | None:
        """See Identifier. It says so of scripts that it has seen no language in, and of what isn't language."""
        line = " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")
        labels, _ = self._model.predict(line)
        language = _language(labels[0]) if labels else None
        return None if language in _NO_LANGUAGE else language


def _language(label: str) -> str:
    """The language of a label such as __label__twi_Latn."""
    return label.removeprefix("__label__").partition("_")[0]


@cache
def py3langid() -> Identifier:
    """The identifier that travels with its package. Raises: ImportError."""
    return Py3langid()


def glotlid() -> Identifier | None:
    """GlotLID, if its model is on this machine. Raises: ImportError; BenchmarkError for a damaged file."""
    path = glotlid_file()
    return None if path is None else _glotlid(path)


def glotlid_file() -> Path | None:
    """GlotLID's model in the hub's cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(GLOTLID, _MODEL)
    return Path(found) if isinstance(found, str) else None


def fetch_glotlid() -> Path:
    """GlotLID's model, downloaded if need be. Raises: BenchmarkError if it can't be had."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(GLOTLID, _MODEL))
    except Exception as error:
        raise BenchmarkError(
            f"{GLOTLID}: GlotLID's model can't be fetched ({type(error).__name__}); connect, unset HF_HUB_OFFLINE, or "
            "copy the hub's cache of a machine that has it"
        ) from error


@cache
def _glotlid(path: Path) -> Identifier:
    return GlotLID(path)
