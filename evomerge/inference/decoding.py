"""How transformers' own generate would continue a context: what changes the scores, what ends the text.

A model's generation config has a say in that also where the most probable token is taken. Runs no model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList

from evomerge.errors import CheckpointError
from evomerge.models.transformers_settings import without_remarks
from evomerge.score.requests import GenerationRequest

PADDING = 2**31 - 1
"""Stands where a row of several has no token; outside of every vocabulary."""

# Take several rows at once: blind to a token outside of the vocabulary, and to how many tokens there are.
_TOGETHER: tuple[Any, ...] = (
    transformers.RepetitionPenaltyLogitsProcessor,
    transformers.SuppressTokensLogitsProcessor,
    transformers.InfNanRemoveLogitsProcessor,
    transformers.LogitNormalization,
    transformers.TemperatureLogitsWarper,
    transformers.TopKLogitsWarper,
    transformers.TopPLogitsWarper,
    transformers.TopHLogitsWarper,
    transformers.MinPLogitsWarper,
    transformers.TypicalLogitsWarper,
    transformers.EpsilonLogitsWarper,
    transformers.EtaLogitsWarper,
)
# Depend on a row's own tokens and on its length.
_ROW_BY_ROW = (
    transformers.EncoderNoRepeatNGramLogitsProcessor,
    transformers.EncoderRepetitionPenaltyLogitsProcessor,
    transformers.ExponentialDecayLengthPenalty,
    transformers.ForcedBOSTokenLogitsProcessor,
    transformers.ForcedEOSTokenLogitsProcessor,
    transformers.MinLengthLogitsProcessor,
    transformers.MinNewTokensLengthLogitsProcessor,
    transformers.NoBadWordsLogitsProcessor,
    transformers.NoRepeatNGramLogitsProcessor,
    transformers.SequenceBiasLogitsProcessor,
    transformers.SuppressTokensAtBeginLogitsProcessor,
)
# Without a tokenizer, transformers refuses these before it says how it would decode.
_NEED_A_TOKENIZER = {"stop_strings": None, "token_healing": False}


@dataclass(frozen=True, slots=True, eq=False)
class Decoding:
    """What generate would do with one context.

    Attributes:
        processors: change the scores of the next token, in this order.
        ends: tokens that end a text.
        new_tokens: most tokens to make, where the settings say so; None: as many as the request asks for.
        draws: whether tokens are drawn, not chosen.
        is_rowwise: whether each next token is the most probable one after these processors, or drawn by their
            softmax, and the text ends with an end token or its length, so that contexts can be continued together.
    """

    processors: LogitsProcessorList
    ends: frozenset[int]
    new_tokens: int | None
    draws: bool
    is_rowwise: bool

    @property
    def removes_nan(self) -> bool:
        """Whether the scores are made finite, whatever the model answers."""
        return any(isinstance(one, transformers.InfNanRemoveLogitsProcessor) for one in self.processors)

    def most_tokens(self, request: GenerationRequest) -> int:
        """After how many new tokens a text ends."""
        return request.max_tokens if self.new_tokens is None else self.new_tokens


def arguments(request: GenerationRequest, *, padding: int | None, device: torch.device) -> dict[str, Any]:
    """What lm-eval's model class passes to generate for one request, by name.

    Args:
        request: what is to be continued.
        padding: the tokenizer's token for it.
        device: of the model.
    """
    context = torch.tensor([request.context], device=device)
    return {
        "input_ids": context,
        "attention_mask": torch.ones_like(context),
        # Not max_new_tokens, so that the model's own comes first, as it does for lm-eval.
        "max_length": len(request.context) + request.max_tokens,
        "pad_token_id": padding or 0,
        "use_cache": True,
        "return_dict_in_generate": False,
        "do_sample": False,
        **dict(request.sampling),
    }


def decoding_of(model: Any, request: GenerationRequest, *, padding: int | None, device: torch.device) -> Decoding:
    """Ask transformers what its generate would do, with the model's generation config and the request's settings.

    Args: as `arguments`.

    Raises: CheckpointError if it would refuse.
    """
    found: list[Decoding] = []
    given = arguments(request, padding=padding, device=device)
    defaults = model.generation_config
    needy = any(given.get(name, getattr(defaults, name, None)) for name in _NEED_A_TOKENIZER)

    def note(
        model: Any,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **_: Any,
    ) -> Tensor:
        found.append(_decoding(logits_processor, stopping_criteria, generation_config, needy))
        return input_ids

    with generating():
        model.generate(**{**given, **_NEED_A_TOKENIZER}, custom_generate=note)
    return found[0]


def _decoding(
    processors: LogitsProcessorList, criteria: StoppingCriteriaList, config: GenerationConfig, needy: bool
) -> Decoding:
    ends = config.eos_token_id
    is_rowwise = (
        not needy
        and config.get_generation_mode() in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
        # Several texts of one context would be drawn from the same numbers.
        and config.num_return_sequences in (None, 1)
        and config.cache_implementation != "quantized"
        and all(type(one) in (MaxLengthCriteria, EosTokenCriteria) for one in criteria)
        and all(type(one) in _TOGETHER + _ROW_BY_ROW for one in processors)
    )
    return Decoding(
        processors=processors,
        ends=frozenset() if ends is None else frozenset(ends if isinstance(ends, list | tuple) else [int(ends)]),
        new_tokens=config.max_new_tokens,
        draws=bool(config.do_sample),
        is_rowwise=is_rowwise,
    )


@torch.inference_mode()
def processed(processors: Sequence[LogitsProcessorList], seen: Tensor, logits: Tensor) -> Tensor:
    """The scores of the next token of several rows.

    Args:
        processors: of each row; the same ones in the same order, each with what it knows of its row.
        seen: tokens before the next one, shape (rows, columns), with `PADDING` anywhere.
        logits: shape (rows, vocabulary).

    Returns: shape (rows, vocabulary), float32, as from each row by itself.
    """
    scores = logits.float()
    for place, first in enumerate(processors[0]):
        if isinstance(first, _TOGETHER):
            scores = first(seen, scores)
        else:
            rows = [
                own[place](tokens[tokens != PADDING][None], score[None])
                for own, tokens, score in zip(processors, seen, scores, strict=True)
            ]
            scores = torch.cat(rows)
    return scores


@contextmanager
def generating() -> Iterator[None]:
    """Within, transformers keeps its remarks on settings to itself, and a refusal says whose settings they are.

    Raises: CheckpointError for what transformers refuses.
    """
    try:
        with without_remarks(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except (ValueError, TypeError, ImportError) as error:
        raise CheckpointError(
            f"transformers {transformers.__version__} can't generate with the settings of the base's "
            f"generation_config.json and the task's generation_kwargs: {error}"
        ) from error
