"""Where generated texts end: at a stop string, as lm-eval looks for them, an end token, or their length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from evomerge.errors import MergeError
from evomerge.inference.batch import Running, Work
from evomerge.inference.decoding import Decoding
from evomerge.score.requests import GenerationRequest, GenerationResponse


class Endings:
    """Adds tokens to rows, and answers those that end.

    Args:
        tokenizer: of the base, to find stop strings in generated text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self._lookbacks: dict[str, int] = {}

    def add(self, rows: Sequence[Running], tokens: Sequence[int], largest: Sequence[float], work: Work) -> None:
        """Add each row's next token, and note the answers of rows that end with it.

        Args:
            rows: those that have ended are left alone.
            tokens: of each row.
            largest: of the logits by which each was chosen.
            work: takes the answers.

        Raises: MergeError if logits aren't finite.
        """
        decoding = work.decoding
        for row, token, value in zip(rows, tokens, largest, strict=True):
            if row.is_finished:
                continue
            # A NaN is the largest of its row.
            if not -float("inf") < value < float("inf") and not decoding.removes_nan:
                raise not_finite(row.place)
            row.made.append(token)
            if self._is_last(row, decoding):
                row.is_finished = True
                work.found[row.place] = self.response(row.made, row.request)

    def _is_last(self, row: Running, decoding: Decoding) -> bool:
        at_end = row.made[-1] in decoding.ends or len(row.made) >= decoding.most_tokens(row.request)
        return at_end or self._holds_stop(row.made, row.request)

    def _holds_stop(self, made: list[int], request: GenerationRequest) -> bool:
        """Whether a text whose last token is new ends with a stop string."""
        return self._may_end(made[-1], request.stop) and self.hold_stop(request.stop, made)

    def hold_stop(self, stops: Sequence[str], made: list[int]) -> bool:
        """Whether a stop string is among the last tokens, as lm-eval looks."""
        return any(stop in self._tokenizer.decode(made[-self._lookback(stop) :]) for stop in stops)

    def _may_end(self, token: int, stops: Iterable[str]) -> bool:
        """Whether a stop string can end with this token, which is cheaper to ask than the text of the last ones."""
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = str(self._tokenizer.decode([token]))
        # Part of a character, or nothing seen by itself; and tokenizers drop a first space.
        if not text.strip() or "\N{REPLACEMENT CHARACTER}" in text:
            return True
        return any(stop[-1:] in text or stop[-1].isspace() for stop in stops)

    def _lookback(self, stop: str) -> int:
        """How many last tokens can hold a stop string; two more than its own, since it may be split otherwise."""
        if stop not in self._lookbacks:
            self._lookbacks[stop] = len(self._tokenizer.encode(stop, add_special_tokens=False)) + 2
        return self._lookbacks[stop]

    def response(self, made: list[int], request: GenerationRequest) -> GenerationResponse:
        """The text before the first stop string."""
        text: str = self._tokenizer.decode(made, skip_special_tokens=True)
        for stop in request.stop:
            if stop:
                text = text.split(stop)[0]
        return GenerationResponse(text=text, tokens=len(made))


def not_finite(place: int) -> MergeError:
    """Says that a model generates nothing that can be used."""
    return MergeError("generated logits are not finite; the merged weights make no usable model", request=place)
