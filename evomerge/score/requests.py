"""What a benchmark asks of a model, and what the model answers: tokens in, numbers or text out.

Plain, picklable values, so that a benchmark built once in the driver can be sent to every worker.
Knows nothing of tasks, documents or metrics.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogLikelihoodRequest:
    """How probable is `continuation` after `context`? Both are token ids, neither is empty.

    The windows of a rolling log-likelihood are separate requests of this kind.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Continue `context` until a stop string, the end-of-text token or `max_tokens`.

    `context` is already truncated to leave room for `max_tokens`. `sampling` holds transformers'
    generation settings beyond greedy decoding as sorted (name, value) pairs; empty means greedy.
    """

    context: tuple[int, ...]
    stop: tuple[str, ...]
    max_tokens: int
    sampling: tuple[tuple[str, float | int | bool | str], ...] = ()


@dataclass(frozen=True, slots=True)
class LogLikelihoodResponse:
    """Natural-log probability of the whole continuation, and whether greedy decoding would give it."""

    log_probability: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class GenerationResponse:
    """The generated text, cut before the first stop string, and the number of tokens generated."""

    text: str
    tokens: int


Request = LogLikelihoodRequest | GenerationRequest
Response = LogLikelihoodResponse | GenerationResponse
