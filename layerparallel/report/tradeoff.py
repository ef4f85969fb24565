"""Runs compared: accuracy against speed, and against the share of epochs with augmented samples.

Runs that differ by their seed alone are one point. Points that differ by the hybrid alone, or of serial
training by its epochs, are a family.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .drawing import INK, Curve, Plot, colour, plot
from .story import Story

ASIDE = ("seed", "serial_epochs", "evaluate_every", "checkpoint_seconds", "budget")
ASIDE += ("folder",)
"""Options that decide neither on accuracy nor on speed."""
OF_STAGES = ("stages", "cut", "filter", "hybrid", "alternating", "serial_start", "beta", "beta_growth")
OF_STAGES += ("scale", "state_rate", "state_decay", "multiplier_rate", "multiplier_decay", "keep")
OF_STAGES += ("multiplier_step", "regenerate")
"""Options that serial training has no use for."""
BARE = ("recipe", "method")
"""Options whose values need no name."""
TOLD = 4
"""Options that the name of a family tells of at most."""
MEASURED, PREDICTED, CUT = "measured", "predicted", "by its epochs"
STYLES = {MEASURED: "points", PREDICTED: "hollow points", CUT: "squares"}
SCORES = {"validation_accuracy": "accuracy", "validation_loss": "validation loss"}


@dataclass(frozen=True)
class Point:
    """What runs that differ by their seed alone came to.

    Args:
        x: where it is drawn: a speed-up, or a share of epochs.
        scores: accuracy or loss of each run.
        mark: where x comes from, one of `STYLES`.
        text: beside it.
    """

    x: float
    scores: tuple[float, ...]
    mark: str = MEASURED
    text: str = ""


@dataclass(frozen=True)
class Family:
    """Points that are joined by a line."""

    name: str
    points: tuple[Point, ...]


# ---- plots -------------------------------------------------------------------------------------


def against_speed(
    families: Sequence[Family], key: str, early: Sequence[float] | None = None
) -> Plot | None:
    """Scores against the speed-up per epoch; None of fewer than two points.

    Args:
        key: of `SCORES`.
        early: scores of serial training after every epoch, of which there are as many as of the others:
            what it would come to if it were stopped as soon as they have ended.
    """
    points = [point for family in families for point in family.points]
    if len(points) < 2:
        return None
    curves = _curves(families, marked=True)
    if early is not None:
        x = len(early) / np.arange(1.0, len(early) + 1)
        near = x <= 1.1 * max(point.x for point in points)
        y = np.array(early, dtype=float)
        curves.insert(0, Curve(x[near], y[near], INK, "dotted", "serial training, stopped early"))
    over = "speed-up per epoch over serial training"
    return _plot(f"{_said(key)} and speed", curves, over, key, families)


def against_share(families: Sequence[Family], key: str, serial: Sequence[Family]) -> Plot | None:
    """Scores against the share of epochs that are serial and augmented; None without two shares.

    Args:
        serial: serial trainings, drawn as horizontal lines.
    """
    wide = [f for f in families if len({point.x for point in f.points}) > 1]
    if not wide:
        return None
    ends = [point.x for family in wide for point in family.points]
    curves = _curves(wide, marked=False)
    for family, style in zip(serial, ("level", "dotted level"), strict=False):
        y = statistics.mean(score for point in family.points for score in point.scores)
        x = np.array([min(ends), max(ends)])
        curves.append(Curve(x, np.array([y, y]), INK, style, family.name))
    title = f"{_said(key)} and augmented epochs"
    return _plot(title, curves, "share of serial, augmented epochs", key, wide, "percent")


def _plot(
    title: str, curves: list[Curve], over: str, key: str, families: Sequence[Family], ticks: Any = "real"
) -> Plot | None:
    seeds = {len(point.scores) for family in families for point in family.points}
    note = "One run each."
    if seeds != {1}:
        count = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(*seeds)
        note = f"Means over {count} seeds; bars are as long as the standard deviation, both ways."
    scale = "percent" if key == "validation_accuracy" else "linear"
    return plot(title, curves, over, scale, note, ticks)


def _said(key: str) -> str:
    return SCORES[key].capitalize()


def _curves(families: Sequence[Family], marked: bool) -> list[Curve]:
    """Points of every family with the line that joins them."""
    found = []
    for place, family in enumerate(families):
        line = _curve(family.points, colour(place), "thin", "")
        found += [line] if len(family.points) > 1 else []
        for mark in dict.fromkeys(point.mark for point in family.points):
            points = [point for point in family.points if point.mark == mark]
            label = f"{family.name}, {mark}" if marked else family.name
            found.append(_curve(points, colour(place), STYLES[mark], label))
    return found


def _curve(points: Sequence[Point], colour: str, style: str, label: str) -> Curve:
    points = sorted(points, key=lambda point: point.x)
    x = np.array([point.x for point in points])
    y = np.array([statistics.mean(point.scores) for point in points])
    if not label:
        return Curve(x, y, colour, style)
    spread = np.array([statistics.pstdev(point.scores) for point in points])
    return Curve(x, y, colour, style, label, spread=spread, texts=tuple(point.text for point in points))


# ---- from records ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone."""

    stories: tuple[Story, ...]
    options: dict[str, Any]

    @property
    def staged(self) -> bool:
        """Whether its stages train at once."""
        return any(story.staged for story in self.stories)

    @property
    def epochs(self) -> int:
        """Of each run."""
        return len(self.stories[0].epochs)

    def scores(self, key: str) -> tuple[float, ...]:
        """Of all seeds; of runs with the same one, on other numbers of processes say, the last."""
        found = {story.options.get("seed"): story.result(key) for story in self.stories}
        return tuple(found.values())


def augmented_share(stories: Sequence[Story]) -> float:
    """Of the epochs of runs in stages those that were serial and augmented."""
    serial = [
        line.get("mode") == "serial" and story.options.get("augment") == "serial"
        for story in stories
        for line in story.epochs
    ]
    return sum(serial) / len(serial)


def stopped_early(stories: Sequence[Story], key: str) -> tuple[float, ...]:
    """Scores after every epoch, the mean over the runs; NaN where none was evaluated."""
    rows = [[line.get(key) for line in story.epochs] for story in stories]
    columns = [[value for value in column if value is not None] for column in zip(*rows, strict=False)]
    return tuple(statistics.mean(each) if each else math.nan for each in columns)


def compared(stories: Sequence[Story]) -> list[Plot]:
    """The plots that these runs allow: of ended ones, on the same samples, with the same score."""
    ended = [story for story in stories if story.ended]
    data = {json.dumps(story.start.get("data"), sort_keys=True) for story in ended}
    key = next((k for k in SCORES if all(s.result(k) is not None for s in ended)), None)
    if len(data) != 1 or key is None:
        return []
    groups = _groups(ended)
    longest = max(group.epochs for group in groups)
    speeds, shares = [], []
    for name, members in _families(groups).items():
        points = [_point(each, groups, longest, key, _beside(each, members)) for each in members]
        speeds.append(Family(name, tuple(point for point in points if point is not None)))
        found = [
            Point(augmented_share(each.stories), each.scores(key), text=_beside(each, members))
            for each in members
            if each.staged
        ]
        shares.append(Family(name, tuple(found)))
    serial = [group for group in groups if _is_serial(group) and group.epochs == longest]
    serial.sort(key=lambda group: group.options.get("augment") == "none")  # the augmented ones first
    early = stopped_early(serial[0].stories, key) if serial else None
    found = [
        against_speed([each for each in speeds if each.points], key, early),
        against_share(shares, key, [Family(_trained(g), (Point(1, g.scores(key)),)) for g in serial]),
    ]
    return [each for each in found if each is not None]


def _relevant(story: Story) -> dict[str, Any]:
    """The options of a run that decide on what it comes to."""
    left_out = {*ASIDE, *OF_STAGES} if story.options.get("method") == "serial" else {*ASIDE}
    return {"recipe": story.recipe} | {k: v for k, v in story.options.items() if k not in left_out}


def _groups(stories: Sequence[Story]) -> list[Group]:
    found: dict[str, list[Story]] = {}
    for story in stories:
        found.setdefault(json.dumps(_relevant(story), sort_keys=True), []).append(story)
    return [Group(tuple(each), _relevant(each[0])) for each in found.values()]


def _families(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Groups that differ by the hybrid alone, serial ones by epochs, under a name unlike the others'."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        rest = {name: value for name, value in group.options.items() if name != _varied(group)}
        found.setdefault(json.dumps(rest, sort_keys=True), []).append(group)
    every = [json.loads(key) for key in found]
    differing = [
        name
        for name in dict.fromkeys(name for each in every for name in each)
        if name == "method" or len({json.dumps(each[name]) for each in every if name in each}) > 1
    ]
    named: dict[str, list[Group]] = {}
    for options, members in zip(every, found.values(), strict=True):
        name = _name([(each, options[each]) for each in differing if each in options])
        alike = sum(other == name or other.startswith(f"{name} (") for other in named)
        named[f"{name} ({alike + 1})" if alike else name] = members
    return named


def _varied(group: Group) -> str:
    """The option by which members of a family differ."""
    return "epochs" if _is_serial(group) else "hybrid"


def _beside(group: Group, members: Sequence[Group]) -> str:
    """What is written beside a point of a family, if it has several."""
    if len(members) == 1:
        return ""
    return f"{group.epochs} epochs" if _is_serial(group) else str(group.options.get("hybrid", ""))


def _name(options: list[tuple[str, Any]]) -> str:
    options = sorted(options, key=lambda option: option[0] not in BARE)
    words = [str(v) if k in BARE else f"{k.replace('_', ' ')} {v}" for k, v in options[:TOLD]]
    return ", ".join(words + ["…"] * (len(options) > TOLD)) or "all runs"


def _point(group: Group, groups: Sequence[Group], longest: int, key: str, text: str) -> Point | None:
    """Against speed; None where nothing was measured of it."""
    if _is_serial(group):
        mark = MEASURED if group.epochs == longest else CUT
        return Point(longest / group.epochs, group.scores(key), mark, text)
    ratios = [_ratio(story, group, groups) for story in group.stories]
    measured = [ratio for ratio in ratios if ratio is not None]
    if not measured:
        return None
    return Point(statistics.mean(measured), group.scores(key), MEASURED, text)


def _is_serial(group: Group) -> bool:
    return group.options.get("method") == "serial"


def _ratio(story: Story, group: Group, groups: Sequence[Group]) -> float | None:
    """Seconds of a serial epoch over those of this run's; of stages on a process each alone."""
    if not story.staged:
        return story.result("serial_ratio")
    if story.layer_ranks == 1:  # in turn, which shows no speed-up
        return None
    ignored = ("method", "epochs")
    for other in filter(_is_serial, groups):
        same = all(group.options.get(k) == v for k, v in other.options.items() if k not in ignored)
        theirs = [s for s in other.stories if s.layer_ranks == 1 and _machine(s) == _machine(story)]
        if same and theirs:
            return statistics.median(map(_epoch_seconds, theirs)) / _epoch_seconds(story)
    return None


def _machine(story: Story) -> tuple[Any, ...]:
    machine = story.start.get("machine", {})
    return tuple(machine.get(name) for name in ("processor", "cores", "threads", "torch"))


def _epoch_seconds(story: Story) -> float:
    """Mean over all epochs, parallel and serial ones."""
    return statistics.mean(line["epoch_seconds"] for line in story.epochs)


def _trained(group: Group) -> str:
    plain = group.options.get("augment") in (None, "none")
    return "serial training" + ("" if plain else ", all epochs augmented")
