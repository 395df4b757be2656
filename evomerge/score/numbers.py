"""How screens and pages write scores, intervals, probabilities, sizes and times."""

from __future__ import annotations

from collections.abc import Sequence


def score(value: float | None) -> str:
    """A score or fitness, to four decimals, or that a requirement was missed."""
    from evomerge.score.objective import INFEASIBLE

    if value is None:
        return "–"
    return f"{value:.4f}" if value > -INFEASIBLE else "infeasible"


def interval(value: float, bounds: Sequence[float], *, signed: bool = False) -> str:
    """A value with its interval, as "0.463 [0.412, 0.519]"."""
    low, high = bounds
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" if signed else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def probability(p: float) -> str:
    """A p-value, to two significant digits."""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def duration(seconds: float) -> str:
    """A time span, as "45 s", "3 min 20 s" or "2 h 05 min"."""
    if seconds < 0.995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours / 24:.1f} days"


def size(num_bytes: float) -> str:
    """A size in decimal units, as "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 999.5:
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
