"""What a tuning is told: how to learn, and what from. Knows names, ranges and defaults; imports no torch."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from evomerge.config.explain import explain
from evomerge.config.section import Positive, Section
from evomerge.errors import ConfigError

Above = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Dtype = Literal["auto", "float32", "bfloat16", "float64"]


class Checked(Section):
    """A section that is also made from arguments, with our errors."""

    @classmethod
    def of(cls, values: dict[str, Any], where: str) -> Self:
        """Checked values. Raises: ConfigError naming `where`, the key and what is right."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, where)) from error


class TuneSettings(Checked):
    """How a model is tuned."""

    learning_rate: Above = 2e-5
    epochs: Above | None = None
    """Passes over the data; 1 if `steps` isn't given either."""
    steps: Positive | None = None
    """Steps of the optimiser, instead of epochs."""
    batch: Positive = 8
    """Examples (blocks of text, labelled items) that go through the model together."""
    accumulation: Positive = 1
    """Batches whose gradients are summed up to one step."""
    warmup: Share = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How it falls after that: to 0 at the end, or not."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of a step's gradient; 0: any."""
    dtype: Dtype = "auto"
    """Of the computation: float32, or float64 for a model in float64. With bfloat16 the weights stay in float32."""
    lora_rank: Positive | None = None
    """Train a LoRA adapter of this rank instead of all weights."""
    lora_alpha: Positive | None = None
    """Of the adapter, whose updates are multiplied by alpha / rank; None: twice the rank."""
    length: Annotated[int, Field(ge=2)] | None = None
    """Tokens of a block of text; None: 1024, or as many as the model takes. Labelled texts are cut to it."""
    validation: Share = 0.1
    """Share of the data that is held out, if none is given for it."""
    save_every: Positive | None = None
    """Steps from one checkpoint to the next; None: one each five minutes."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of what is held out, the order of the data, dropout, and new heads and adapters."""

    @model_validator(mode="after")
    def _fit_together(self) -> TuneSettings:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give either epochs or steps, not both")
        if self.lora_alpha is not None and self.lora_rank is None:
            raise ValueError("lora_alpha belongs to lora_rank; give both")
        return self

    def total_steps(self, examples: int) -> int:
        """Steps over this many training examples."""
        if self.steps is not None:
            return self.steps
        updates = ceil(ceil(examples / self.batch) / self.accumulation)
        return ceil((self.epochs or 1.0) * updates)


class TuneData(Checked):
    """What a model is tuned on: text to continue, or items with labels if `label` is given."""

    data: Annotated[tuple[str, ...], Field(min_length=1)]
    """Text files (.txt, .md), each one document; files of rows; folders of `datasets.save_to_disk`."""
    text: str | None = None
    """Column with the text; None: `text`, where there are no labels."""
    answer: str | None = None
    """Column with what is to follow the text; that alone is learnt then, and every row stands by itself."""
    pair: str | None = None
    """Column with a second text, for classifiers that read two."""
    image: str | None = None
    """Column with an image: a file's name, relative to the data; its bytes; or rows of pixels."""
    label: str | None = None
    """Column with the label: its name in the model's config.json (`id2label`), or its number."""
    new_head: bool = False
    """Give the model a new head, with random weights, for the labels that are in the data."""
    validation_data: str | None = None
    """Data to hold out, of the same form; None: a share of `data`."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_file(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"data": data}
        if isinstance(data, dict) and isinstance(data.get("data"), str):
            data = {**data, "data": [data["data"]]}
        return data

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> TuneData:
        if self.answer is not None and (self.label is not None or self.text is None):
            raise ValueError("answer follows a text; give its column (text), and no label")
        if self.label is None:
            for name in ("pair", "image", "new_head"):
                if getattr(self, name):
                    raise ValueError(f"{name} belongs to labelled data; give the column of the label too (label)")
        elif (self.text is None) == (self.image is None):
            raise ValueError("label needs the column of the text (text) or of the image (image), one of them")
        elif self.pair is not None and self.text is None:
            raise ValueError("pair is the column of a second text; it needs text")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of an item's input, that of the answer or the label last where it has one."""
        if self.label is None:
            return (self.text or "text", *([self.answer] if self.answer is not None else []))
        return tuple(name for name in (self.text, self.pair, self.image, self.label) if name is not None)
