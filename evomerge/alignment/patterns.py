"""A spec from patterns of names: one line for each kind of tensor stands for it in every layer.

Knows names, shapes and labels. Doesn't know architectures or files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from evomerge.alignment.kinds import Kind
from evomerge.alignment.spec import Axis, AxisLike, Joined, Shape, Spec
from evomerge.errors import AlignmentError, listed

Axes = tuple[AxisLike, ...]
"""Of one tensor, in their order; None for an axis that no map acts on."""
FIXED: Axes = ()
"""A tensor of any shape that no map acts on."""
KindOf = Kind | Callable[[int], Kind] | None
"""A label's kind, or what makes it from the number of units; None: its axes stay as they are."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_SPECIAL = re.compile(r"\{(\w+)\}|\*")


def expand(
    where: str,
    shapes: Mapping[str, Shape],
    tensors: Mapping[str, Axes],
    labels: Mapping[str, KindOf],
    *,
    unmatched: Callable[[str], bool] = lambda name: False,
    whole: bool = False,
) -> Spec:
    """The spec of the tensors that a model has.

    Args:
        where: what the patterns belong to, for messages.
        shapes: every tensor of the model.
        tensors: the axes by pattern of a name. `{layer}`, or any other word in braces, stands for a number, which the
            labels of the line may use; `*` stands for anything.
        labels: the kinds by label, as the lines write it.
        unmatched: whether a tensor's numbers say nothing about which units go together.
        whole: whether every line has to match a tensor.

    Raises: AlignmentError for tensors without a line or with several, lines without a tensor, a wrong number of axes.
    """
    lines = [(_regex(pattern), pattern, axes) for pattern, axes in tensors.items()]
    axes_of: dict[str, Axes] = {}
    kinds: dict[str, Kind] = {}
    unknown, used = [], set()
    for name, shape in shapes.items():
        matches = [(match, pattern, axes) for regex, pattern, axes in lines if (match := regex.fullmatch(name))]
        if not matches:
            unknown.append(name)
            continue
        if len(matches) > 1:
            raise AlignmentError(f"{where}: {name} is meant by several lines: {listed(line[1] for line in matches)}")
        match, pattern, axes = matches[0]
        used.add(pattern)
        if axes and len(axes) != len(shape):
            raise AlignmentError(f"{where}: {pattern} has {len(axes)} axes, but {name} is of shape {list(shape)}")
        numbers = match.groupdict()
        filled = [_filled(axis, size, labels, numbers, kinds) for axis, size in zip(axes, shape, strict=bool(axes))]
        axes_of[name] = tuple(filled) if axes else (None,) * len(shape)
    if unknown:
        raise AlignmentError(
            f"{where}: says nothing about {listed(unknown)}; every tensor needs its axes, and one that no map may "
            "act on has to be named as fixed"
        )
    if whole and (idle := [pattern for pattern in tensors if pattern not in used]):
        raise AlignmentError(f"{where}: the model has no tensor called {listed(idle)}")
    return Spec(labels=kinds, tensors=axes_of, unmatched=frozenset(filter(unmatched, axes_of)))


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern stands for a name."""
    return _regex(pattern).fullmatch(name) is not None


def _regex(pattern: str) -> re.Pattern[str]:
    """What a pattern matches; the same word in braces stands for the same number throughout a name."""
    text, words, end = "", set[str](), 0
    for found in _SPECIAL.finditer(pattern):
        text += re.escape(pattern[end : found.start()])
        word, end = found[1], found.end()
        text += ".*" if word is None else rf"(?P={word})" if word in words else rf"(?P<{word}>\d+)"
        words |= {word} - {None}
    return re.compile(text + re.escape(pattern[end:]))


def _filled(
    axis: AxisLike, size: int, labels: Mapping[str, KindOf], numbers: Mapping[str, str], kinds: dict[str, Kind]
) -> AxisLike:
    """An axis with the numbers of its name in its label, whose kind is noted; None where the label has none."""
    if isinstance(axis, Joined):
        return Joined(tuple((length, _one(inner, length, labels, numbers, kinds)) for length, inner in axis.segments))
    return _one(axis, size, labels, numbers, kinds)


def _one(
    axis: Axis | None, size: int, labels: Mapping[str, KindOf], numbers: Mapping[str, str], kinds: dict[str, Kind]
) -> Axis | None:
    if axis is None or (kind := labels[axis.label]) is None:
        return None
    label = _PLACEHOLDER.sub(lambda word: numbers[word[1]], axis.label)
    if label not in kinds:
        kinds[label] = kind(size // axis.width) if callable(kind) else kind
    return replace(axis, label=label)
