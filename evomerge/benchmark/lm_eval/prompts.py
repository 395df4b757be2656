"""From lm-eval's requests to tokens, by lm-eval's own code.

`Encoder` is lm-eval's Hugging Face model without a model: its methods tokenise, truncate and
normalise exactly as in a stock evaluation, and what they would hand to the model is kept instead.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import configure_pad_token

from evomerge.benchmark.lm_eval.chat_template import rendered
from evomerge.errors import BenchmarkError
from evomerge.score.requests import GenerationRequest, LogLikelihoodRequest, TokenRequest

# Settings of transformers' generate that mean greedy decoding, and so are left out of requests.
_GREEDY = {"do_sample": False, "temperature": 0.0}


class Encoder(HFLM):  # type: ignore[misc]
    """Tokenises requests as lm-eval's HFLM does.

    Args:
        tokenizer: of the base model. A missing pad token is set as lm-eval sets it.
        model_config: a transformers config, for the context window.
        max_length: context window in tokens; None takes the model's own.
    """

    def __init__(self, tokenizer: Any, model_config: Any, *, max_length: int | None) -> None:
        # HFLM's own constructor loads a model; everything that its tokenising methods read is set here.
        self.tokenizer = configure_pad_token(tokenizer, model_config=model_config)
        self.backend = "causal"
        self.add_bos_token = None
        self.custom_prefix_token_id = None
        self.truncation = False
        self.think_end_token = None
        self.enable_thinking = None
        self.chat_template_args: dict[str, Any] = {}
        self.cache_hook = CacheHook(None)
        self.batch_size_per_gpu = 1
        self._rank, self._world_size = 0, 1
        self._device = torch.device("cpu")
        self._config = model_config
        self._max_length = max_length
        self._model = _Configured(model_config)
        self._pairs: list[tuple[list[int], list[int]]] = []
        self._generation: dict[str, Any] = {}
        # HFLM encodes a question anew for each of its answers, in turn with the two of them in one.
        self._encoded = lru_cache(maxsize=2)(super().tok_encode)
        self.cut = 0
        """Tokens that the last encoded prompt lost at its beginning."""
        if self.prefix_token_id is None:
            raise BenchmarkError(
                "the base's tokenizer has neither a BOS nor an EOS token, and lm-eval needs one of them before texts "
                "without a context and to end generation; set eos_token in its tokenizer_config.json"
            )

    def encode(self, instance: Instance) -> list[TokenRequest]:
        """The token requests of one lm-eval request; several where a long text is cut into windows.

        Raises: BenchmarkError if the request can't fit the context window.
        """
        self._pairs.clear()
        self.cut = 0
        if instance.request_type == "loglikelihood":
            self.loglikelihood([instance], disable_tqdm=True)
            return [self._request(*pair) for pair in self._pairs]
        if instance.request_type == "loglikelihood_rolling":
            self.loglikelihood_rolling([instance], disable_tqdm=True)
            return [self._request(*pair) for pair in self._pairs]
        if instance.request_type == "generate_until":
            return [self._generation_request(instance)]
        raise BenchmarkError(f"requests of type {instance.request_type!r} are not supported")

    def tok_encode(self, string: str, *arguments: Any, **settings: Any) -> list[int]:
        """The tokens of a text, as HFLM; the last two texts are remembered."""
        return list(self._encoded(string, *arguments, **settings))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as the base's template writes it, by HFLM. Raises: BenchmarkError if that fails or doesn't end."""
        return rendered(lambda: super(Encoder, self).apply_chat_template(chat_history, add_generation_prompt))

    def _request(self, context: list[int], continuation: list[int]) -> LogLikelihoodRequest:
        if not continuation:
            raise BenchmarkError("an answer has no tokens of its own: give the task a target_delimiter or fix the data")
        if len(continuation) > self.max_length:
            raise BenchmarkError(
                f"an answer has {len(continuation)} tokens, the context window {self.max_length}; "
                "raise execution.max_length if the model allows it"
            )
        # As HFLM: the window holds all but the last token of context and continuation.
        room = self.max_length + 1 - len(continuation)
        if room == 1 < len(context):
            raise BenchmarkError(
                f"an answer has {len(continuation)} tokens and fills the context window of {self.max_length}, so "
                "nothing of the question would be left; raise execution.max_length if the model allows it"
            )
        kept = context[-room:]
        self.cut = max(self.cut, len(context) - len(kept))
        return LogLikelihoodRequest(context=tuple(kept), continuation=tuple(continuation))

    def _generation_request(self, instance: Instance) -> GenerationRequest:
        try:
            self.generate_until([instance], disable_tqdm=True)
        except AssertionError as error:
            raise BenchmarkError(
                f"{error} Raise execution.max_length if the model allows it, or set max_gen_toks under the task's "
                "overrides: {generation_kwargs: ...}"
            ) from error
        context, stop = self._generation.pop("context"), self._generation.pop("stop")
        room = self._generation.pop("max_length") - len(context)
        if len(context) >= self.max_length - room:
            # Cut, unless it just fits; lm-eval's tokeniser doesn't say.
            self.cut = max(0, len(self.tok_encode(instance.args[0])) - len(context))
        sampling = {name: value for name, value in self._generation.items() if value is not None}
        if sampling.get("do_sample", False) is False and not sampling.get("temperature", 0.0):
            sampling = {name: value for name, value in sampling.items() if name not in _GREEDY}
        return GenerationRequest(
            context=tuple(context), stop=tuple(stop), max_tokens=room, sampling=tuple(sorted(sampling.items()))
        )

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        for _, context, continuation in requests:
            self._pairs.append((context, continuation))
        return [(0.0, False)] * len(requests)

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **settings: Any) -> Any:
        settings.pop("attention_mask", None)
        self._generation = {"context": context[0].tolist(), "max_length": max_length, "stop": list(stop), **settings}
        return context


class _Configured:
    """Stands where HFLM looks for its model's config."""

    def __init__(self, config: Any) -> None:
        self.config = config
