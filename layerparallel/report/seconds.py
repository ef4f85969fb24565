"""Where the seconds of an epoch went: bars, and a table of the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..runs.stopwatch import PARTS, SOLVES
from .story import Line, Story
from .tables import Table
from .words import NONE, brief

SAID = {
    "data": "data",
    "forward": "forward",
    "forward_fine": "forward, chains, fine steps",
    "forward_coarse": "forward, chains, coarse levels",
    "loss": "loss",
    "adjoint_fine": "adjoint, chains, fine steps",
    "adjoint_coarse": "adjoint, chains, coarse levels",
    "backward": "backward",
    "optimizer": "optimiser",
    "comparison": "comparisons with the exact gradient",
    "filling": "propagations for auxiliary variables",
    "auxiliary": "auxiliary variables, read and updated",
    "messages": "waiting for other stages",
    "rest": "sums, display and the rest",
}
"""All parts, in the order in which they are shown."""


@dataclass(frozen=True)
class Bar:
    """Shares of one bar: (part, seconds, percent of the longest bar)."""

    name: str
    total: float
    shares: list[tuple[str, float, float]]


@dataclass(frozen=True)
class Time:
    """Where the time went.

    parts: those that took any, and what they are called. chains: whether any of it was spent in chains.
    """

    parts: dict[str, str]
    bars: list[Bar]
    table: Table
    chains: bool


def time(stories: Sequence[Story]) -> Time | None:
    """Where an epoch's seconds went; None where it is not on record."""
    columns: list[tuple[str, Story | None, dict[str, float]]] = []
    for story in stories:
        alone = len(stories) == 1
        for lines, name, whose in (
            (story.epochs, "this run" if alone else story.name, story),
            (story.serial, "serial PyTorch" if alone else f"{story.name}, serial PyTorch", None),
        ):
            split = _mean_split(lines)
            if split:
                columns.append((name, whose, split))
    if not columns:
        return None
    longest = max(sum(split.values()) for _, _, split in columns)
    parts = {part: said for part, said in SAID.items() if any(split[part] > 0 for *_, split in columns)}
    chains = not parts.keys().isdisjoint(SOLVES)
    if chains:
        parts |= {part: f"{part}, outside chains" for part in ("forward", "backward") if part in parts}
    bars = []
    for name, _, split in columns:
        shares = [(part, split[part], 100 * split[part] / longest) for part in parts if split[part] > 0]
        bars.append(Bar(name, sum(split.values()), shares))
    rows = [[said, *[_with_share(split, part) for *_, split in columns]] for part, said in parts.items()]
    rows.append(["an epoch", *[brief(sum(split.values())) for *_, split in columns]])
    for said, tell in (("an evaluation", _evaluation), ("a checkpoint", _checkpoint)):
        cells = [NONE if whose is None else tell(whose) for _, whose, _ in columns]
        if set(cells) != {NONE}:
            rows.append([f"{said}, beside it", *cells])
    return Time(parts, bars, Table(["time per epoch", *[name for name, *_ in columns]], rows), chains)


def _mean_split(lines: list[Line]) -> dict[str, float]:
    """Seconds by part, the mean over the epochs of the last phase."""
    last = [line for line in lines if line.get("phase") == lines[-1].get("phase")]
    splits = [line["split"] for line in last if line.get("split")]
    if not splits:
        return {}
    return {part: sum(split.get(part, 0.0) for split in splits) / len(splits) for part in PARTS}


def _with_share(split: dict[str, float], part: str) -> str:
    seconds = split[part]
    if not seconds:
        return NONE
    share = 100 * seconds / sum(split.values())
    return f"{brief(seconds)}, {f'{share:.0f}' if share >= 1 else '< 1'} %"


def _evaluation(story: Story) -> str:
    return _mean(line.get("evaluation_seconds") for line in story.epochs)


def _checkpoint(story: Story) -> str:
    return _mean(line.get("seconds") for line in story.checkpoints)


def _mean(values: Any) -> str:
    there = [value for value in values if value is not None]
    return brief(sum(there) / len(there)) if there else NONE
