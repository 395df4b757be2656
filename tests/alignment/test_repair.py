"""REPAIR and recomputed statistics: merged units come to have the statistics that were asked for."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from evomerge.alignment.repair import Statistics, goal, recompute_statistics, repair, unit_statistics
from evomerge.errors import AlignmentError

CONVOLUTIONAL = "convolutional"


def network(kind: str, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    if kind == CONVOLUTIONAL:
        return nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 3)
        )
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(kind: str) -> list[Tensor]:
    torch.manual_seed(100)
    shape = (2, 8, 8) if kind == CONVOLUTIONAL else (7,)
    # Batches of different sizes, so that a mean of the batches' means would be another.
    return [torch.randn(size, *shape) * 2 + 1 for size in (40, 17, 3)]


def mean_of(networks: list[nn.Sequential]) -> nn.Sequential:
    merged = deepcopy(networks[0])
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            parameter.copy_(torch.stack([each.get_parameter(name) for each in networks]).mean(0))
    return merged


def layers(of: nn.Sequential) -> list[str]:
    return [name for name, module in of.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


@pytest.mark.parametrize("kind", ["dense", CONVOLUTIONAL])
def test_statistics_are_those_of_all_outputs_together(kind: str) -> None:
    net, data = network(kind, 0), batches(kind)
    found = unit_statistics(net, data, layers(net))
    assert list(found) == layers(net)
    for name in layers(net):
        outputs = net[: int(name) + 1](torch.cat(data)).double().movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(found[name].mean, outputs.mean(0), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found[name].variance, outputs.var(0, correction=0), atol=1e-6, rtol=1e-5)


def test_variances_survive_a_mean_that_is_far_larger() -> None:
    layer = nn.Sequential(nn.Linear(1, 1).double())
    with torch.no_grad():
        layer[0].weight.fill_(1.0)
        layer[0].bias.fill_(1e8)
    data = [torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)]
    assert float(unit_statistics(layer, data, ["0"])["0"].variance) == pytest.approx(2 / 3, rel=1e-6)


@pytest.mark.parametrize("kind", ["dense", CONVOLUTIONAL])
def test_repaired_units_have_the_mean_statistics_of_the_models_units(kind: str) -> None:
    models, data = [network(kind, seed) for seed in range(3)], batches(kind)
    wanted = goal([unit_statistics(model, data, layers(model)) for model in models])
    merged = mean_of(models)
    before = unit_statistics(merged, data, layers(merged))
    repair(merged, models, data)
    for name, found in unit_statistics(merged, data, layers(merged)).items():
        torch.testing.assert_close(found.mean, wanted[name].mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.variance, wanted[name].variance, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(before[name].variance, wanted[name].variance, rtol=1e-2)


def test_all_at_once_differs_from_layer_by_layer_after_the_first_layer_only() -> None:
    models, data = [network("dense", seed) for seed in range(2)], batches("dense")
    merged = mean_of(models)
    once, turn = deepcopy(merged), deepcopy(merged)
    repair(once, models, data, sequential=False)
    repair(turn, models, data)
    torch.testing.assert_close(once[0].weight, turn[0].weight)
    assert not torch.allclose(once[2].bias, turn[2].bias, atol=1e-3)
    # Each layer's own units were brought to the goal with the layers before as they were.
    wanted = goal([unit_statistics(model, data, layers(model)) for model in models])["2"]
    only = deepcopy(merged)
    repair(only, models, data, layers=["2"])
    torch.testing.assert_close(only[2].weight, once[2].weight)
    found = unit_statistics(only, data, ["2"])["2"]
    torch.testing.assert_close(found.variance, wanted.variance, atol=1e-3, rtol=1e-3)


def test_a_model_that_was_merged_with_itself_stays_as_it_is() -> None:
    model, data = network(CONVOLUTIONAL, 4), batches(CONVOLUTIONAL)
    merged = deepcopy(model)
    repair(merged, [model, model], data)
    for name, parameter in merged.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), atol=1e-6, rtol=1e-5)


def test_the_goal_is_the_mean_of_means_and_of_variances() -> None:
    one = {"a": Statistics(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.0]))}
    two = {"a": Statistics(torch.tensor([3.0, 0.0]), torch.tensor([16.0, 2.0]))}
    found = goal([one, two])["a"]
    assert found.mean.tolist() == [2.0, 1.0]
    assert found.variance.tolist() == [10.0, 1.0]


def normalised(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 6, bias=False), nn.BatchNorm1d(6, momentum=0.3), nn.ReLU(), nn.Dropout(0.5))


def test_recomputed_statistics_are_the_mean_over_batches_and_nothing_else_changes() -> None:
    net, data = normalised(0).train(), batches("dense")
    net[3].eval()
    weight, modes = net[0].weight.clone(), [module.training for module in net.modules()]
    recompute_statistics(net, data)
    inner = [net[0](batch) for batch in data]
    mean = torch.stack([each.mean(0) for each in inner]).mean(0)
    torch.testing.assert_close(net[1].running_mean, mean)
    torch.testing.assert_close(net[1].running_var, torch.stack([each.var(0) for each in inner]).mean(0))
    torch.testing.assert_close(net[0].weight, weight, rtol=0, atol=0)
    assert [module.training for module in net.modules()] == modes
    assert net[1].momentum == 0.3


def test_a_network_with_running_statistics_is_sent_to_those() -> None:
    with pytest.raises(AlignmentError, match="recompute_statistics"):
        repair(normalised(0), [normalised(1)], batches("dense"))
    with pytest.raises(AlignmentError, match="use repair"):
        recompute_statistics(network("dense", 0), batches("dense"))


def test_what_cannot_be_repaired_is_named() -> None:
    net, data = network("dense", 0), batches("dense")
    with pytest.raises(AlignmentError, match="there are no batches"):
        repair(net, [net], [])
    with pytest.raises(AlignmentError, match="there are no batches"):
        recompute_statistics(normalised(0), [])
    with pytest.raises(AlignmentError, match="'3'"):
        repair(net, [net], data, layers=["3"])
    biasless = nn.Sequential(nn.Linear(7, 4, bias=False), nn.Linear(4, 2))
    with pytest.raises(AlignmentError, match=r"0 .*no bias"):
        repair(biasless, [biasless], data)
