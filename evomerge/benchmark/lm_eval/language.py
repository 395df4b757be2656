"""Which language generated text is in, as a metric of a task: 1 for an item in the asked language, else 0.

The identifier is py3langid, whose model of 140 languages travels with it. Of sentences, questions and
news in Swahili, Yoruba, Basque, Bengali, Hausa, Igbo, Amharic, Telugu and Thai it names 99 to 100% right,
cut to six words 97 to 100%, to three words 79 to 100%; close relatives are harder (Xhosa 92, Zulu 90,
Southern Sotho 94%). It takes text in a language that it doesn't know for one of those that it knows, such as Aymara
for Quechua or Twi for Hausa; asking for a language that it doesn't know is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from evomerge.errors import BenchmarkError, unknown

# Codes of ISO 639-1 and 639-3 for what the identifier knows under another one: the other standard's code of the same
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
_ALIASES = dict(pair.split(":") for pair in _PAIRS.split())


def check_language(code: str, task: Any, place: str) -> None:
    """Refuse a language that can't be told, or a task that generates no text.

    Args:
        code: ISO 639-1 or 639-3.
        task: lm-eval's Task.
        place: of the entry in the config, for messages.

    Raises: BenchmarkError.
    """
    if task.OUTPUT_TYPE != "generate_until":
        raise BenchmarkError(
            f"{place}.language: {task.config.task} generates no text ({task.OUTPUT_TYPE}); remove it, or choose a "
            "task that does"
        )
    try:
        known = _identifier().labels
    except ImportError as error:
        raise BenchmarkError(
            f"{place}.language: telling languages needs py3langid: pip install 'evomerge[languages]'"
        ) from error
    if _label(code) not in known:
        raise BenchmarkError(
            f"{place}.language: {unknown('language', code, known)} py3langid tells these {len(known)} alone, and takes "
            "text in any other language for one of them"
        )


def in_language(texts: Sequence[str], code: str) -> float:
    """How many of an item's texts are in a language, as a fraction.

    Text without letters, such as a bare number, is in every language, since it is in no other one: whether
    it is an answer is for the task's own metric to say. No text at all is in none. Code counts as what its
    words look like. What has fewer than about six words is told less surely, and text in a language that the identifier
    doesn't know is taken for one of those that it knows.
    """
    return sum(_is_in(text, code) for text in texts) / len(texts) if texts else 0.0


def _is_in(text: str, code: str) -> bool:
    if not text.strip():
        return False
    if not any(letter.isalpha() for letter in text):
        return True
    return str(_identifier().classify(text)[0]) == _label(code)


def _label(code: str) -> str:
    """The identifier's own code of a language."""
    return code if code in _identifier().labels else _ALIASES.get(code, code)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
