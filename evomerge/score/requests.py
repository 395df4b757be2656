"""What a benchmark asks of a model, and what the model answers: inputs in, numbers or text out.

Plain, picklable values, so that a benchmark built once in the driver can be sent to every worker.
Knows nothing of tasks, documents or metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """An output head that answers in place of the model's own, shared by all requests of a task.

    `tensors` are its weights by the model's names for them.
    """

    task: str
    tensors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationRequest:
    """Which label has this input?

    `inputs` are what the tokenizer or image processor makes of one item, by argument name of the model, without
    the side of the batch: token ids of shape (tokens,), or pixel values of shape (channels, height, width).
    """

    inputs: Mapping[str, NDArray[np.generic]]
    head: Head | None = None
    """None: the model's own."""


@dataclass(frozen=True, slots=True)
class FunctionRequest:
    """What score does a function of the user's, `module:name`, give the model on one item, plain JSON data?"""

    call: str
    folder: str
    """Where its module is looked for first."""
    item: Any


@dataclass(frozen=True, slots=True)
class ClassificationResponse:
    """Natural-log probability of each label, in the model's order."""

    log_probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FunctionResponse:
    """The score that the function gave."""

    score: float


@dataclass(frozen=True, slots=True, eq=False)
class LabelReference:
    """The right label of an input, by its number in the model's order."""

    request: ClassificationRequest
    label: int


TokenRequest = LogLikelihoodRequest | GenerationRequest
"""What is asked of a language model."""
Request = TokenRequest | ClassificationRequest | FunctionRequest
Response = LogLikelihoodResponse | GenerationResponse | ClassificationResponse | FunctionResponse
Reference = LogLikelihoodRequest | LabelReference
"""What would be right to answer: a text's continuation, or a label."""
