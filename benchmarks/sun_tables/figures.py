"""Figures 4, 5, 8 and 9 of Sun et al. (2021), drawn from our runs of the tables' rows.

    layerparallel bench sun_tables --runs runs/sun --times times.json --plot figures

Figure 4: accuracy over the share of epochs that are serial and augmented. Figure 5: accuracy over the
speed-up per epoch, with serial training stopped early. Figures 8 (CIFAR-10) and 9 (CIFAR-100): losses,
accuracy and violation of the constraints over the epochs of the hybrids 1:4 with the most stages. Only
what was run is drawn; speed-ups have the marks of the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import plan as plans
from plan import Plan
from tables import RATIOS, Row

from layerparallel.report import curves, stages, tradeoff
from layerparallel.report.drawing import Plot, sheet
from layerparallel.report.story import Story, tell
from layerparallel.report.tradeoff import Family, Point
from layerparallel.runs.record import read_summary

SETS = {"CIFAR-10": (1, 3), "CIFAR-100": (2, 4)}
"""Tables of a data set."""
LEARNING = {"CIFAR-10": 8, "CIFAR-100": 9}
"""Number of the figure with its learning curves."""
SCORE = "validation_accuracy"


def draw(name: str, found: Any, folder: Path) -> list[Path]:
    """All figures that the ended runs of a plan allow, as PNG.

    Args:
        found: the `Found` of run.py: where runs are, and their speed-ups.
    """
    drawn = []
    for data, tables in SETS.items():
        rows = list(_ended(name, tables, found.runs))
        for number, plot in ((4, _figure_4(rows)), (5, _figure_5(rows, found))):
            if plot is not None:
                drawn.append(_save([plot], folder, number, data))
        if plots := _learning(rows):
            drawn.append(_save(plots, folder, LEARNING[data], data))
    return drawn


Ended = tuple[Row, list[Story], Plan]


def _ended(name: str, tables: tuple[int, ...], runs: Path) -> Iterator[Ended]:
    """Rows that have ended runs, with these; rows of two tables that share their runs once."""
    seen = set()
    for table in tables:
        for plan, row in plans.rows(name, table):
            if plan is None or (where := plans.folder(plan, row, 0)) in seen:
                continue
            seen.add(where)
            if plans.measured(plan, row, runs) is not None:
                seeds = sorted((runs / where).parent.glob("seed*"))
                yield row, [tell(path) for path in seeds if read_summary(path) is not None], plan


def _save(plots: list[Plot], folder: Path, number: int, data: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"figure_{number}_{data.lower()}.png"
    return sheet(plots, path, f"As figure {number} of Sun et al., our runs, {data}")


def _scores(told: list[Story]) -> tuple[float, ...]:
    return tuple(story.result(SCORE) for story in told)


def _families(points: list[tuple[Row, Point]]) -> list[Family]:
    """Rows that differ by the ratio alone are joined; the ratio is gamma_H = n:m, as in the paper."""
    found: dict[str, list[Point]] = {}
    for row, point in points:
        ratio = row.ratio
        name = row.label if ratio is None else f"{row.label.partition(',')[0]})"
        text = "" if ratio is None else f"{ratio.numerator}:{ratio.denominator}"
        found.setdefault(name, []).append(replace(point, text=text))
    return [Family(name, tuple(each)) for name, each in found.items()]


def _serial(rows: list[Ended]) -> list[Ended]:
    """Serial training to its end, augmented before plain."""
    whole = [each for each in rows if each[0].method == "serial" and each[0].share == 1]
    return sorted(whole, key=lambda each: not each[0].images_augmented)


def _figure_4(rows: list[Ended]) -> Plot | None:
    points = [
        (row, Point(tradeoff.augmented_share(told), _scores(told)))
        for row, told, _ in rows
        if row.ratio is not None
    ]
    serial = [Family(row.label, (Point(1.0, _scores(told)),)) for row, told, _ in _serial(rows)]
    return tradeoff.against_share(_families(points), SCORE, serial)


def _figure_5(rows: list[Ended], found: Any) -> Plot | None:
    points = []
    for row, told, plan in rows:
        cell = found.speedup(plan, row)
        if row.method == "serial" and row.share == 1:
            points.append((row, Point(1.0, _scores(told))))
        elif cell.value is not None:
            mark = cell.mark.partition(" (")[0]
            points.append((row, Point(cell.value, _scores(told), mark)))
    serial = _serial(rows)
    early = tradeoff.stopped_early(serial[0][1], SCORE) if serial else None
    return tradeoff.against_speed(_families(points), SCORE, early)


def _learning(rows: list[Ended]) -> list[Plot]:
    """Curves of the first seed of the hybrids 1:4 with the most stages, and of serial training."""
    hybrids = [each for each in rows if each[0].ratio == RATIOS[0]]
    if not hybrids:
        return []
    most = max(row.stages for row, _, _ in hybrids)
    chosen = [each for each in hybrids if each[0].stages == most] + _serial(rows)[:1]
    stories = [replace(told[0], name=row.label) for row, told, _ in chosen]
    plots = [plot for plot in curves.learning(stories) if plot.over == "epochs"]
    apart = stages.violations(stories)
    return [*plots, *([apart] if apart else [])]
