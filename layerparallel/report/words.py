"""Figures as people read them, with their units."""

from typing import Any

NONE = "–"
"""Where there is nothing to tell."""


def percent(value: float | None) -> str:
    """A share with two digits: 97.25 %."""
    return NONE if value is None else f"{100 * value:.2f} %"


def points(difference: float) -> str:
    """A difference of accuracies in points: 0.5 points."""
    return f"{100 * difference:.2g} points"


def number(value: float | None, digits: int = 3) -> str:
    """Three digits of it, or more in front of the point."""
    if value is None:
        return NONE
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def plain(value: Any) -> str:
    """A count or a name: 12,345."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else str(value)


def epochs(count: int) -> str:
    """1 epoch, 2 epochs."""
    return f"{count} epoch{'' if count == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """37 s, 12 min, 3.4 h."""
    if seconds is None:
        return "unknown time"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def brief(seconds: float) -> str:
    """A part of an epoch: 2.13 s, 34 ms."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def bytes_of(value: float | None) -> str:
    """Memory: 12 kB, 3.4 MB, 1.2 GB."""
    if value is None:
        return NONE
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def option(options: dict[str, Any], name: str) -> str:
    """The value of an option."""
    if name not in options:
        return NONE
    value = options[name]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
