"""What a user should do, in one sentence, from the rows."""

from __future__ import annotations

from collections.abc import Sequence

from .baselines import PLAIN, SERIAL, Split, Timed
from .scaling import Row
from .show import ms, name_of


def one_core(row: Row) -> Timed:
    """The quickest on one core, ordinary PyTorch among it."""
    plain = Timed(Split(row.depth, PLAIN), row.plain)
    serial = Timed(Split(row.depth, SERIAL), row.serial)
    return min((plain, serial, row.device), key=lambda each: each.seconds)


def best(rows: Sequence[Row], splits: Sequence[Timed]) -> Timed:
    """The quickest of all."""
    many = [timed for row in rows for timed in (row.layer, *row.others.values())]
    return min([one_core(rows[0]), *many, *splits], key=lambda each: each.seconds)


def advice(rows: Sequence[Row], splits: Sequence[Timed]) -> str:
    """One sentence about strong scaling: rows of one depth, and splits of the most ranks."""
    alone = one_core(rows[0])
    said = f"On one device {name_of(alone.split.way)} is fastest ({ms(alone.seconds)} ms"
    if alone.split.way != PLAIN:
        said += f", {rows[0].plain / alone.seconds:.1f} times plain PyTorch"
    said += ")"
    many = [row for row in rows if row.ranks > 1]
    if not many:
        return f"{said}; give --ranks of more than 1 to compare."
    wins = [row for row in many if row.layer.seconds < alone.seconds]
    quickest = min(many, key=lambda row: row.layer.seconds)
    gain = alone.seconds / quickest.layer.seconds
    if wins:
        said += f"; {_from(wins, many)} MGRIT wins"
        said += f", at {quickest.ranks}" if len(wins) > 1 else ""
        said += f" by {gain:.2f} times"
    else:
        said += f"; layer-parallel ranks lose, the best of them at {gain:.2f} times its speed"
    top = best(rows, splits)
    if top.seconds < min(alone.seconds, quickest.layer.seconds):
        said += f"; quickest of all, {alone.seconds / top.seconds:.2f} times, {described(top.split)}"
    elif not wins:
        said += ", and nothing else is quicker: stay on one device"
    if top.error.relative:
        said += f" (error of that gradient {top.error.relative:.0e} at the initial weights)"
    return said + "."


def _from(wins: Sequence[Row], many: Sequence[Row]) -> str:
    """On which numbers of ranks."""
    *before, last = (str(row.ranks) for row in wins)
    if len(many) > 1 and list(wins) == list(many[-len(wins) :]):
        return f"from {wins[0].ranks} ranks on"
    return f"on {', '.join(before)} and {last} ranks" if before else f"on {last} ranks"


def described(split: Split) -> str:
    """What ranks do, in words with a verb."""
    if split.ranks == split.data:
        return f"are {split.ranks} data parallel ranks with {name_of(split.way)} on each"
    parts = {"data": split.data, "layer": split.layer, "pipeline": split.stages}
    shape = " x ".join(f"{count} {name}" for name, count in parts.items() if count > 1)
    schedule = f" ({split.schedule}, microbatches: {split.microbatches})" if split.schedule else ""
    return f"are {split.ranks} ranks as {shape}{schedule} with {name_of(split.way)}"
