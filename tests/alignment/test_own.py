"""A spec of one's own: read from a file, held to the model, refused with file and key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from evomerge.alignment import SPECS
from evomerge.alignment.kinds import Heads, Orthogonal, Permutation, SignedPermutation
from evomerge.alignment.own import read_spec
from evomerge.alignment.spec import Axis, Joined, Spec
from evomerge.alignment.specs import spec_of
from evomerge.alignment.symmetries import Symmetries
from evomerge.errors import AlignmentError
from helpers.networks import mlp, scrambled
from helpers.pages import snippets, text_of

SHAPES = {
    "embed": (9, 8),
    "blocks.0.qkv": (24, 8),
    "blocks.0.out": (8, 8),
    "blocks.0.norm": (8,),
    "blocks.0.statistics.mean": (8,),
    "positions": (3, 3),
}
FILE: dict[str, Any] = {
    "labels": {
        "stream": "signed",
        "blocks.{block}.heads": {"kind": "heads", "groups": 2, "queries": 1, "head_dim": 4, "inside": "rotations"},
    },
    "tensors": {
        "embed": [None, "stream"],
        "blocks.{block}.qkv": [
            [
                {"label": "blocks.{block}.heads", "role": "query", "length": 8},
                {"label": "blocks.{block}.heads", "role": "key", "length": 8},
                {"length": 8},
            ],
            "stream",
        ],
        "blocks.{block}.out": ["stream", None],
        "blocks.{block}.norm": ["stream:gain"],
        "*.statistics.*": ["stream"],
        "positions": "fixed",
    },
    "unmatched": ["*.statistics.*"],
}


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data) if path.suffix == ".json" else yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["own.yaml", "own.json", "OWN.YML"])
def test_a_file_says_what_each_axis_is(name: str, tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path / name, FILE), SHAPES)
    heads = Heads(groups=2, queries=1, head_dim=4, inside="rotations")
    assert spec.labels == {"stream": SignedPermutation(8), "blocks.0.heads": heads}
    stream, query, key = Axis("stream"), Axis("blocks.0.heads", "query"), Axis("blocks.0.heads", "key")
    assert spec.tensors == {
        "embed": (None, stream),
        "blocks.0.qkv": (Joined(((8, query), (8, key), (8, None))), stream),
        "blocks.0.out": (stream, None),
        "blocks.0.norm": (Axis("stream", "gain"),),
        "blocks.0.statistics.mean": (stream,),
        "positions": (None, None),
    }
    assert spec.unmatched == {"blocks.0.statistics.mean"}


def test_its_path_stands_for_a_family_and_its_maps_hold(tmp_path: Path) -> None:
    net = scrambled(mlp(6, 8, 8, 5))
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    path = write(
        tmp_path / "net.yaml",
        {
            "labels": {"first": "permutation", "second": "permutation"},
            "tensors": {
                "0.weight": ["first", None], "0.bias": ["first"],
                "2.weight": ["second", "first"], "2.bias": ["second"],
                "4.weight": [None, "second"], "4.bias": "fixed",
            },
        },
    )  # fmt: skip
    spec = spec_of(str(path), shapes, {}, Symmetries())
    assert spec.labels == {"first": Permutation(8), "second": Permutation(8)}
    unchanged_by_maps(net, spec, torch.randn(4, 6, dtype=torch.float64))
    with pytest.raises(AlignmentError, match=r"net\.yaml: a spec of one's own says itself which maps may act"):
        spec_of(str(path), shapes, {}, Symmetries(residual="signed"))


def test_kinds_take_their_settings(tmp_path: Path) -> None:
    labels = {"a": {"kind": "orthogonal", "keeps_mean": True}}
    spec = read_spec(write(tmp_path / "a.yaml", {"labels": labels, "tensors": {"w": ["a"]}}), {"w": (4,)})
    assert spec.labels == {"a": Orthogonal(4, keeps_mean=True)}


class Adding(nn.Module):
    """Blocks that add to a stream, named as the page on specs has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        parts = {"norm": lambda: nn.LayerNorm(8), "up": lambda: nn.Linear(8, 6), "down": lambda: nn.Linear(6, 8)}
        self.blocks = nn.ModuleList(nn.ModuleDict({name: make() for name, make in parts.items()}) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block["down"](block["up"](block["norm"](x)).tanh())
        found: torch.Tensor = self.head(x)
        return found


def test_the_page_s_example_is_a_spec_and_its_maps_hold(tmp_path: Path) -> None:
    (text,) = snippets("docs/alignment-specs.md", "yml")
    (tmp_path / "page.yaml").write_text(text, encoding="utf-8")
    net = scrambled(Adding())
    spec = read_spec(tmp_path / "page.yaml", {name: tuple(value.shape) for name, value in net.state_dict().items()})
    assert sorted(spec.labels) == ["blocks.0.hidden", "blocks.1.hidden", "stream"]
    unchanged_by_maps(net, spec, torch.randn(4, 5, dtype=torch.float64))


def unchanged_by_maps(net: nn.Module, spec: Spec, given: torch.Tensor) -> None:
    before = net(given)
    maps = spec.random(np.random.default_rng(0))
    moved = {name: spec.apply(maps, name, value) for name, value in net.state_dict().items()}
    assert any(not torch.equal(moved[name], value) for name, value in net.state_dict().items())
    net.load_state_dict(moved)
    torch.testing.assert_close(net(given), before)


def test_the_page_on_specs_names_every_architecture() -> None:
    rows = re.findall(r"^\| (`.*?) \|", text_of("docs/alignment-specs.md"), flags=re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", " ".join(rows[1:]))) == sorted(SPECS)


def changed(*keys: str, to: Any) -> dict[str, Any]:
    """The file with the value under the keys replaced; None takes it out."""
    data = json.loads(json.dumps(FILE))
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    if to is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return dict(data)


HEADS = "blocks.{block}.heads"
WRONG: list[tuple[Any, str]] = [
    ([], r"own\.yaml: has to be a mapping"),
    (changed("labels", to=None), r"own\.yaml: labels is missing"),
    (changed("maps", to={}), r"own\.yaml: unknown key 'maps'"),
    (changed("labels", "stream", to="signd"), r"labels\.stream: unknown kind 'signd'\. Did you mean 'signed'"),
    (changed("labels", "stream", to={"size": 3}), r"labels\.stream: kind is missing"),
    (changed("labels", HEADS, "groups", to=None), r"labels\.blocks\.\{block\}\.heads: groups is missing"),
    (changed("labels", HEADS, "groups", to=0), r"heads\.groups: has to be a whole number, at least 1 \(found 0\)"),
    (changed("labels", HEADS, "group", to=2), r"unknown setting of heads 'group'\. Did you mean 'groups'"),
    (changed("labels", HEADS, "inside", to="all"), r"inside: has to be none, signs or rotations \(found 'all'\)"),
    (changed("labels", HEADS, "ordered", to=1), r"ordered: has to be true or false \(found 1\)"),
    (changed("tensors", "embed", to=[]), r"tensors\.embed: has to be fixed, or a list"),
    (changed("tensors", "embed", to=[None, "strem"]), r"tensors\.embed\[1\]: unknown label 'strem'"),
    (changed("tensors", "embed", to=[None, {"lable": 1}]), r"tensors\.embed\[1\]: unknown key 'lable'"),
    (changed("tensors", "embed", to=[None, HEADS]), r"embed\[1\]: .* has \{block\}, which the tensor's name hasn't"),
    (changed("tensors", "embed", to=[None, [{"label": "stream"}]]), r"tensors\.embed\[1\]\[0\]: length is missing"),
    (changed("tensors", "embed", to=[None]), r"embed has 1 axes, but embed is of shape \[9, 8\]"),
    (changed("tensors", "embed", to=[None, "stream:unt"]), r"embed: axis 1: unknown role of 'stream' 'unt'"),
    (
        changed("tensors", "embed", to=["stream", None]),
        r"own\.yaml: blocks\.0\.qkv: axis 1 of 8: 'stream' as 'unit' asks for 9",
    ),
    (changed("tensors", "embed", to=None), r"says nothing about embed; every tensor needs its axes"),
    (changed("tensors", "blocks.0.*", to="fixed"), r"is meant by several lines"),
    (changed("tensors", "embedding", to="fixed"), r"the model has no tensor called embedding"),
    (changed("unmatched", to="all"), r"unmatched: has to be a list of names \(found 'all'\)"),
]


@pytest.mark.parametrize(("data", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_wrong_is_said_with_file_and_key(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match=message) as raised:
        read_spec(write(tmp_path / "own.yaml", data), SHAPES)
    assert str(raised.value).startswith(str(tmp_path / "own.yaml"))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(AlignmentError, match=r"gone\.yaml: can't be read"):
        read_spec(tmp_path / "gone.yaml", SHAPES)


def test_an_unknown_architecture_names_what_there_is_and_the_way_for_others() -> None:
    with pytest.raises(AlignmentError, match=r"'lama'\. Did you mean 'llama'\? Available: .*bert.*spec of your own"):
        spec_of("lama", SHAPES, {}, Symmetries())
