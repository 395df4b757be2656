"""REPAIR: give the units of an averaged network the statistics that its models' units had (arXiv 2211.08403).

An average of networks, even of aligned ones, has units that vary less than those of each model, the more so the
deeper they lie. Knows torch modules and batches of inputs. Doesn't know what the networks do or how they were merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evomerge.errors import AlignmentError, listed, unknown

_EPSILON = 1e-5
_REPAIRED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Run = Callable[[nn.Module, Any], object]
"""Puts one batch through a network; what comes out is not looked at."""


class Statistics(NamedTuple):
    """Mean and variance of each unit of a layer's output over all items and positions, (units,) float64."""

    mean: Tensor
    variance: Tensor


def call(network: nn.Module, batch: Any) -> object:
    """A batch as the network's arguments: by name from a mapping, in order from a tuple, or one alone."""
    if isinstance(batch, Mapping):
        return network(**batch)
    return network(*batch) if isinstance(batch, tuple) else network(batch)


def unit_statistics(
    network: nn.Module, batches: Iterable[Any], names: Sequence[str], *, run: Run = call
) -> dict[str, Statistics]:
    """What the outputs of some layers are like on data, in the order in which the layers are first used.

    Args:
        network: in the mode that it is to be measured in.
        batches: gone through once.
        names: of linear and convolutional layers.
        run: how a batch is put through.

    Raises: AlignmentError for no batches, or a layer that isn't used.
    """
    sums: dict[str, _Sums] = {}
    with _watching(network, names, lambda name, output: sums.setdefault(name, _Sums()).add(output)), torch.no_grad():
        for batch in batches:
            run(network, batch)
    if not sums:
        raise AlignmentError("there are no batches, or none of the layers is used: statistics need some data")
    if unused := [name for name in names if name not in sums]:
        raise AlignmentError(f"no batch uses {listed(unused)}; leave them out of the layers to repair")
    return {name: found.statistics() for name, found in sums.items()}


def goal(statistics: Sequence[Mapping[str, Statistics]]) -> dict[str, Statistics]:
    """By layer the mean of the models' means, and of their variances."""
    return {
        name: Statistics(
            *(torch.stack(parts).mean(0) for parts in zip(*(each[name] for each in statistics), strict=True))
        )
        for name in statistics[0]
    }


def repair(
    network: nn.Module,
    models: Sequence[nn.Module],
    batches: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    sequential: bool = True,
    run: Run = call,
) -> None:
    """Rescale and shift, in place, the units of a merged network to the mean statistics of its models' units.

    Args:
        network: the merged one.
        models: those it was merged from, aligned, so that their units correspond.
        batches: inputs like those that the models were trained on; no labels are needed. They are gone through once
            for each model and layer, so a list or a DataLoader, no generator.
        layers: names of the linear and convolutional layers to repair; all of them if not given.
        sequential: whether each layer is measured with those before it repaired, which takes a pass for each layer.
            Otherwise all are measured in one pass and repaired at once.
        run: how a batch is put through.

    Raises: AlignmentError for a network that normalises by running statistics (use `recompute_statistics`), a layer
        that can't hold the shift, or one that the data doesn't reach.
    """
    if running := [name for name, module in network.named_modules() if _has_running(module)]:
        raise AlignmentError(
            f"{listed(running)} normalise by running statistics, which undo a repair: use recompute_statistics instead"
        )
    names = _chosen(network, layers)
    modes = [(each, each.training) for each in (network, *models)]
    try:
        for each, _ in modes:
            each.eval()
        goals = goal([unit_statistics(model, batches, names, run=run) for model in models])
        measured = unit_statistics(network, batches, names, run=run)
        for place, (name, found) in enumerate(measured.items()):
            if sequential and place:
                found = unit_statistics(network, batches, [name], run=run)[name]
            _fold(network.get_submodule(name), found, goals[name])
    finally:
        for each, training in modes:
            each.train(training)


def recompute_statistics(network: nn.Module, batches: Iterable[Any], *, run: Run = call) -> None:
    """Measure anew, in place, the running statistics that a network normalises by, each batch counting alike.

    Args:
        network: a merged one; those of its models don't fit it.
        batches: inputs like those that the models were trained on, large enough to measure a variance by.
        run: how a batch is put through.

    Raises: AlignmentError if nothing in the network has running statistics, or there are no batches.
    """
    layers: list[Any] = [module for module in network.modules() if _has_running(module)]
    if not layers:
        raise AlignmentError("no layer of this network has running statistics; use repair instead")
    momenta, modes = [layer.momentum for layer in layers], [(each, each.training) for each in network.modules()]
    seen = False
    try:
        network.eval()
        for layer in layers:
            layer.reset_running_stats()
            # Without a momentum the statistics are a plain mean over the batches.
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            for batch in batches:
                run(network, batch)
                seen = True
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for each, training in modes:
            each.training = training
    if not seen:
        raise AlignmentError("there are no batches: running statistics need some data")


class _Sums:
    """Mean and squared deviations of each unit, added up batch by batch without cancellation (Chan et al. 1979)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Add the rows of (items, units)."""
        rows = values.double()
        count, mean = len(rows), rows.mean(0)
        squares = (rows - mean).square().sum(0)
        whole, step = self._count + count, mean - self._mean
        self._squares = self._squares + squares + step.square() * (self._count * count / whole)
        self._mean = self._mean + step * (count / whole)
        self._count = whole

    def statistics(self) -> Statistics:
        return Statistics(self._mean, self._squares / self._count)


@contextmanager
def _watching(network: nn.Module, names: Sequence[str], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Let `see` have the output of each of these layers, a row for each item and position, while the network runs."""

    def watcher(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def watch(layer: nn.Module, _: Any, output: Tensor) -> None:
            # The units of a convolution come before its positions.
            units = -1 if isinstance(layer, nn.Linear) else -output.ndim + 1 if _batched(layer, output) else 0
            rows = output.movedim(units, -1)
            see(name, rows.reshape(-1, rows.shape[-1]))

        return watch

    hooks = [network.get_submodule(name).register_forward_hook(watcher(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _batched(layer: nn.Module, output: Tensor) -> bool:
    """Whether a convolution's output is of several items."""
    kernel: tuple[int, ...] = layer.kernel_size  # type: ignore[assignment]
    return output.ndim == len(kernel) + 2


def _chosen(network: nn.Module, layers: Sequence[str] | None) -> list[str]:
    able = [name for name, module in network.named_modules() if isinstance(module, _REPAIRED)]
    for name in layers or ():
        if name not in able:
            raise AlignmentError(unknown("linear or convolutional layer", name, able))
    names = able if layers is None else list(layers)
    if shiftless := [name for name in names if getattr(network.get_submodule(name), "bias", None) is None]:
        raise AlignmentError(f"{listed(shiftless)} have no bias that could hold the shift: name the layers to repair")
    if not names:
        raise AlignmentError("the network has no linear or convolutional layer to repair")
    return names


@torch.no_grad()
def _fold(layer: nn.Module, found: Statistics, wanted: Statistics) -> None:
    """Fold into weight and bias what brings each unit's output to what is wanted."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    ratio = ((wanted.variance + _EPSILON) / (found.variance + _EPSILON)).sqrt()
    weight.copy_(weight.double() * ratio.view(-1, *[1] * (weight.ndim - 1)))
    bias.copy_((bias.double() - found.mean) * ratio + wanted.mean)


def _has_running(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None
