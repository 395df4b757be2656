"""Run by a test in a process of its own: what workers answer and hold over three devices, on one, and on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge.execute.worker import Worker
from evomerge.inference import prompts
from evomerge.inference.cache import Columns
from evomerge.inference.choosing import generator_of
from evomerge.inference.spread import devices_of
from evomerge.materialise.merger import Merger
from evomerge.methods.base import TensorInputs
from evomerge.score.requests import ClassificationRequest, GenerationRequest, LogLikelihoodRequest, Request, Response
from helpers import pretend_devices
from helpers.worker import answers, job, make_settings

HEAD = tuple(range(20, 50))
TEXTS: tuple[Request, ...] = (
    # A long shared head, from which answers branch.
    *(LogLikelihoodRequest(context=(*HEAD, 60 + n), continuation=(70 + m, 80)) for n in range(3) for m in range(2)),
    LogLikelihoodRequest(context=(1,), continuation=(300, 301, 302)),
    # Of different lengths, so that rows end one by one.
    *(GenerationRequest(context=(*HEAD, 45 + n), stop=("zzzz",), max_tokens=1 + n) for n in range(4)),
    GenerationRequest(context=(1, 45), stop=(), max_tokens=3, sampling=(("do_sample", True), ("top_k", 9))),
    GenerationRequest(context=(1, 46), stop=(), max_tokens=3, sampling=(("num_beams", 2),)),
)
LABELS: tuple[Request, ...] = tuple(
    ClassificationRequest(
        inputs={"input_ids": np.arange(5, 9 + n), "attention_mask": np.ones(4 + n, dtype=np.int64)}, head=None
    )
    for n in range(4)
)


def compare(folder: Path) -> None:
    """Raises: AssertionError if an answer or a merged tensor isn't the same everywhere, to the last bit."""
    folders = {name: folder / name for name in ("base", "a", "b")}
    requests = LABELS if folder.name == "bert" else TEXTS
    found: list[tuple[list[Response], dict[str, torch.Tensor]]] = []
    for device, count in (("cpu", 1), (pretend_devices.NAME, 1), (pretend_devices.NAME, 3)):
        worker = Worker(make_settings(folders, device=device, gpus=count, batch_tokens=256))
        live = worker._merged.live
        # The embeddings of a small model outweigh all else, so that two devices may be enough.
        assert (len(devices_of(live.model)) > 1) == (count > 1)
        where = [id(parameter) for parameter in live.model.parameters()]
        worker.add_requests("search", requests)
        responses: list[Response] = []
        for number, weight in enumerate((0.3, -0.6)):
            responses += answers(worker.evaluate(job(worker.settings, number, weight))).responses
        assert where == [id(parameter) for parameter in live.model.parameters()]
        held: dict[str, Any] = dict(live.targets)
        found.append((responses, {name: getattr(tensor, "held", tensor) for name, tensor in held.items()}))
    for responses, tensors in found[1:]:
        assert responses == found[0][0], [
            pair for pair in zip(responses, found[0][0], strict=True) if pair[0] != pair[1]
        ]
        assert list(tensors) == list(found[0][1])
        assert all(torch.equal(tensor, found[0][1][name]) for name, tensor in tensors.items())


if __name__ == "__main__":
    pretend_devices.install()
    # Only these devices have no random numbers of their own.
    prompts.generator_of = lambda place, device: generator_of(place, torch.device("cpu"))  # type: ignore[attr-defined]
    shrunk: list[int] = []
    select = Columns.select

    def note(self: Columns, rows: torch.Tensor, first: int) -> None:
        shrunk.append(first)
        select(self, rows, first)

    merge = Merger._merge

    def together(self: Merger, inputs: TensorInputs, *given: Any) -> Any:
        models = [*inputs.experts, *([] if inputs.base is None else [inputs.base])]
        assert {tensor.device for tensor in models} == {given[-1].device}, inputs.name
        return merge(self, inputs, *given)

    Columns.select = note  # type: ignore[method-assign]
    Merger._merge = together  # type: ignore[method-assign]
    for place in sys.argv[1:]:
        compare(Path(place))
        print(Path(place).name, "is the same")
    assert shrunk, "rows were to end one by one"
