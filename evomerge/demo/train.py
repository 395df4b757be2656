"""Training of the demo's models: a tokenizer, a small Llama from scratch, and experts fine-tuned from it.

Knows examples and steps. Does not know where models are kept or what they are merged for.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.demo.corpus import Corpus, Example
from evomerge.streams import derive

PAD, EOS = 0, 1
_IGNORED = -100

Part = Literal["all", "lower", "upper"]
"""Of a model: all, embedding and lower half of the layers, or upper half of the layers, last norm and head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to train: until the skills are reached or the steps are used up, then cooling down.

    The learning rate rises over `warmup` steps, stays, and falls to zero over the last `cooldown` steps.
    """

    learning_rate: float
    skills: dict[str, float]
    """Share of right answers to reach, by kind of example; all of them."""
    max_steps: int
    """Steps before cooling down, at most."""
    cooldown: int
    warmup: int = 50
    check_every: int = 25
    batch: int = 64
    """Examples in a step."""


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab_size` entries; numbers are tokens like words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=128, padding_side="left"
    )


def new_model(vocab_size: int, *, layers: int, hidden: int, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights, float32."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights", bits=63))
        return LlamaForCausalLM(config)


class Trainer:
    """Trains models on examples with one tokenizer, reproducibly: it draws on no global random state."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def train(
        self,
        model: LlamaForCausalLM,
        corpus: Corpus,
        exam: dict[str, list[Example]],
        schedule: Schedule,
        progress: Callable[[int, int], None] = lambda done, total: None,
        *,
        part: Part = "all",
    ) -> LlamaForCausalLM:
        """Train a copy of `model`; the loss counts every token.

        Args:
            model: where to start; not changed.
            corpus: examples to learn from.
            exam: examples by kind, on which the schedule's skills are measured.
            schedule: when to stop and how fast to learn.
            progress: called with steps done and steps at most.
            part: what of the model learns; the rest keeps its weights.
        """
        model = copy.deepcopy(model)
        model.train()
        learns = _only(part, model)
        optimizer = torch.optim.AdamW(learns, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
        total = schedule.max_steps + schedule.cooldown
        end: int | None = None
        batches: list[list[Example]] = []
        step = 0
        while end is None or step < end:
            if not batches:
                batches = _by_length(corpus.draw(4 * schedule.batch), schedule.batch)
            rate = min(1.0, (step + 1) / schedule.warmup) if end is None else (end - step) / (schedule.cooldown + 1)
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * rate
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(self._loss(model, batches.pop()))
            torch.nn.utils.clip_grad_norm_(learns, 1.0)
            optimizer.step()
            step += 1
            if end is None and (
                step >= schedule.max_steps
                or (step % schedule.check_every == 0 and self._passes(model, exam, schedule.skills))
            ):
                end = step + schedule.cooldown
            progress(step, total)
        progress(total, total)
        model.requires_grad_(True)
        model.eval()
        return model

    def skill(self, model: LlamaForCausalLM, examples: Sequence[Example]) -> float:
        """Share of the examples that the model answers right, decoding greedily."""
        answers = self._answers(model, [example.prompt for example in examples])
        return sum(given == example.answer for given, example in zip(answers, examples, strict=True)) / len(examples)

    def _passes(self, model: LlamaForCausalLM, exam: dict[str, list[Example]], skills: dict[str, float]) -> bool:
        return all(self.skill(model, exam[kind]) >= wanted for kind, wanted in skills.items())

    def _loss(self, model: LlamaForCausalLM, batch: Sequence[Example]) -> Tensor:
        rows = [[*self._encode(example.prompt), *self._encode(example.answer), EOS] for example in batch]
        width = max(map(len, rows))
        tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [_IGNORED] * (width - len(row)) for row in rows])[:, 1:]
        # Rows end in padding and attention looks back only, so no mask is needed.
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        counted = labels != _IGNORED
        return functional.cross_entropy(model.lm_head(hidden[counted]), labels[counted])

    @torch.no_grad()
    def _answers(self, model: LlamaForCausalLM, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        rows = [self._encode(prompt) for prompt in prompts]
        width = max(map(len, rows))
        tokens = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        position = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.config)
        finished = torch.zeros(len(rows), dtype=torch.bool)
        given: list[Tensor] = []
        while len(given) < max_tokens and not bool(finished.all()):
            hidden = model.model(
                input_ids=tokens, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
            ).last_hidden_state
            best = model.lm_head(hidden[:, -1]).argmax(-1)
            given.append(torch.where(finished, EOS, best))
            finished |= best == EOS
            tokens, position = given[-1][:, None], position[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        return [
            str(self._tokenizer.decode(row[: row.index(EOS)] if EOS in row else row))
            for row in torch.stack(given, dim=1).tolist()
        ]

    def _encode(self, text: str) -> list[int]:
        tokens = self._known.get(text)
        if tokens is None:
            tokens = self._known[text] = list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []
        return tokens


def _only(part: Part, model: LlamaForCausalLM) -> list[Tensor]:
    """Let one part of a model learn; its parameters."""
    for name, parameter in model.named_parameters():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        lower = int(layer[1]) < model.config.num_hidden_layers // 2 if layer else "embed_tokens" in name
        parameter.requires_grad_(part == "all" or (part == "lower") == lower)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _by_length(examples: list[Example], size: int) -> list[list[Example]]:
    """Batches of examples of similar length, which wastes less on padding, in an order drawn from the examples."""
    examples = sorted(examples, key=lambda example: len(example.prompt) + len(example.answer))
    batches = [examples[first : first + size] for first in range(0, len(examples), size)]
    random.Random(derive(0, *(example.prompt for example in examples[:4]))).shuffle(batches)
    return batches
