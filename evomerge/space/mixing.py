"""How the dimensions of one coefficient spread over parameter groups: one each, tied, or on a curve over depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.config.space import SpaceConfig
from evomerge.errors import ConfigError, unknown
from evomerge.space.groups import Cell

Mixing = NDArray[np.float64]
"""Shape (groups, dimensions): row g holds the weights with which dimensions make up the coefficient of group g."""

Ties = str | tuple[tuple[str, ...], ...] | None

_DEGREE = 3


@dataclass(frozen=True, slots=True)
class _Series:
    """Groups that follow each other over depth: for each station there, the groups with one coefficient."""

    label: str | None
    stations: Mapping[str, list[int]]


def mixing_of(
    cells: Sequence[Cell], config: SpaceConfig, ties: Ties, where: str, place: str
) -> tuple[list[str], Mixing]:
    """Labels of one coefficient's dimensions, and the matrix that spreads them over the groups.

    Without smoothing or ties each group has its own dimension. Smoothing draws a curve over depth through control
    points, one for each set of kinds that isn't tied to others. Rows sum to one and have no negative entry.

    Args:
        cells: the parameter groups.
        config: whether the coefficient is smooth over depth.
        ties: which groups have one coefficient, as `ParameterConfig.tied` says.
        where: the config's file, for messages.
        place: the coefficient's place in it.

    Raises: ConfigError for ties with what isn't there, or as many control points as groups.
    """
    labels: list[str] = []
    columns: list[NDArray[np.float64]] = []
    smooth = config.smooth
    for series in _series(cells, config, ties, place):
        depth = len(series.stations)
        if smooth is None or depth == 1:
            for label, rows in series.stations.items():
                column = np.zeros(len(cells))
                column[rows] = 1.0
                columns.append(column)
                labels.append(label)
            continue
        if smooth >= depth:
            raise ConfigError(
                f"{where}: space.smooth: {smooth} control points for {depth} groups over depth; "
                "use fewer, or leave it out"
            )
        curve = _cubic(depth, smooth) if config.curve == "cubic" else _linear(depth, smooth)
        for knot, position in enumerate(np.linspace(0.0, 1.0, smooth)):
            column = np.zeros(len(cells))
            for rows, weight in zip(series.stations.values(), curve[:, knot], strict=True):
                column[rows] = weight
            columns.append(column)
            labels.append(".".join(part for part in (f"depth_{position:.2f}", series.label) if part))
    return labels, np.stack(columns, axis=1)


def unmixed(mixing: Mixing, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The dimensions that come nearest to the groups' values, in least squares; exact where each group has its own.

    Args:
        mixing: as `mixing_of` gives it.
        values: of the groups, shape (groups,).
    """
    if np.isin(mixing, (0.0, 1.0)).all():
        first = values[mixing.argmax(axis=0)]
        # What they have in common is kept to the last bit.
        rest: NDArray[np.float64] = first + mixing.T @ (values - mixing @ first) / mixing.sum(axis=0)
        return rest
    return np.asarray(np.linalg.lstsq(mixing, values, rcond=None)[0], dtype=np.float64)


def _series(cells: Sequence[Cell], config: SpaceConfig, ties: Ties, place: str) -> Iterator[_Series]:
    if isinstance(ties, tuple):
        yield from _tied_by_name(cells, config, ties, place)
    elif ties == "all":
        yield _Series(None, {"": [*range(len(cells))]})
    elif ties == "kinds":
        stations: dict[str, list[int]] = {}
        for row, cell in enumerate(cells):
            stations.setdefault(cell.layers_label or cell.series_label or "", []).append(row)
        within = {label: rows for label, rows in stations.items() if cells[rows[0]].layers is not None}
        yield from [_Series(None, within)] if within else []
        yield from (_Series(label, {label: rows}) for label, rows in stations.items() if label not in within)
    else:
        by_label: dict[str | None, list[int]] = {}
        for row, cell in enumerate(cells):
            by_label.setdefault(cell.series_label, []).append(row)
        for label, rows in by_label.items():
            if ties == "layers":
                yield _Series(label, {label or "": rows})
            else:
                yield _Series(label, {"" if cells[row].name == "all" else cells[row].name: [row] for row in rows})


def _tied_by_name(
    cells: Sequence[Cell], config: SpaceConfig, ties: tuple[tuple[str, ...], ...], place: str
) -> Iterator[_Series]:
    """Groups of one list together, at each depth if they are named by their kinds; the others by themselves."""
    groups = {cell.name: row for row, cell in enumerate(cells)}
    kinds = {cell.series_label for cell in cells if cell.series_label is not None}
    together: dict[str, str] = {}
    for names in ties:
        for name in names:
            if name not in {*groups, *kinds}:
                raise ConfigError(f"{place}.tied: {unknown('group or kind', name, {*groups, *kinds})}")
        known = kinds if set(names) <= kinds else groups
        if not set(names) <= {*known}:
            raise ConfigError(f"{place}.tied: {', '.join(names)}: tie groups with groups, and kinds with kinds")
        if known is groups and config.smooth is not None:
            raise ConfigError(f"{place}.tied: with space.smooth only kinds can be tied by name, or all layers")
        together |= dict.fromkeys(names, "+".join(names))
    series: dict[str | None, dict[str, list[int]]] = {}
    for row, cell in enumerate(cells):
        label = together.get(cell.series_label or "", cell.series_label)
        parts = (cell.layers_label, label)
        own = together.get(cell.name) or ".".join(part for part in parts if part)
        series.setdefault(label, {}).setdefault(own, []).append(row)
    stations: dict[str, list[int]] = {}
    for label, found in series.items():
        if config.smooth is not None:
            yield _Series(label, found)
            continue
        for own, rows in found.items():
            stations.setdefault(own, []).extend(rows)
    if stations:
        yield _Series(None, stations)


def _linear(points: int, knots: int) -> Mixing:
    """Straight lines through evenly spaced control points, at evenly spaced points."""
    positions, known = np.linspace(0.0, 1.0, points), np.linspace(0.0, 1.0, knots)
    return np.stack([np.interp(positions, known, row) for row in np.eye(knots)], axis=1)


def _cubic(points: int, knots: int) -> Mixing:
    """The clamped uniform B-spline of degree 3, or less with fewer than 4 control points (de Boor 1978)."""
    degree = min(_DEGREE, knots - 1)
    inner = np.linspace(0.0, 1.0, knots - degree + 1)
    ends = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    positions = np.linspace(0.0, 1.0, points)[:, np.newaxis]
    # The last stretch that isn't empty holds its right end too.
    stretch = np.minimum(np.searchsorted(inner, positions[:, 0], side="right") - 1, knots - degree - 1) + degree
    basis = np.zeros((points, len(ends) - 1))
    basis[np.arange(points), stretch] = 1.0
    for order in range(1, degree + 1):
        low, high = ends[: -order - 1], ends[order + 1 :]
        up, down = ends[order:-1] - low, high - ends[1:-order]
        rising = np.divide(positions - low, up, out=np.zeros((points, len(low))), where=up > 0) * basis[:, :-1]
        falling = np.divide(high - positions, down, out=np.zeros((points, len(low))), where=down > 0) * basis[:, 1:]
        basis = rising + falling
    return basis
