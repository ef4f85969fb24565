"""The comparison as one table and one picture: speed rows joined with the accuracies of runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from families_speed import WAYS

from layerparallel.errors import InputError
from layerparallel.report.drawing import Curve, colour, plot, sheet
from layerparallel.runs import record

NOT_RUN = "not run"
ACCURACIES = "validation_accuracy", "validation_accuracy_parallel"
"""Of a run's summary: propagated serially, and as in training where that differs."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """How long rows are trained.

    Args:
        epochs: all methods for as many.
        time: all methods for the time of so many serial epochs.
    """

    epochs: int = 10
    time: int = 6

    def within(self, ratio: float) -> int:
        """Epochs that fit into the time, of a method so much quicker than serial training."""
        return max(2, round(self.time * ratio))


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Speed-ups on two processes, as measured."""
    return {r["method"]: r["ratio"] for r in rows if r["mark"] == "measured"}


def folder(runs: Path, method: str, epochs: int, seed: int) -> Path:
    """Where a run is; pipelines and data parallelism have the numbers of serial training."""
    return runs / WAYS[method].method / f"{epochs}epochs" / f"seed{seed}"


def wanted(rows: Sequence[Row], budget: Budget) -> list[tuple[str, int]]:
    """What has to be trained: method of the recipe, and epochs; each once."""
    found: dict[tuple[str, int], None] = {}
    for name, ratio in ratios(rows).items():
        for epochs in (budget.epochs, budget.within(ratio)):
            found[WAYS[name].method, epochs] = None
    return list(found)


@dataclass(frozen=True)
class Score:
    """Accuracy in percent over the seeds there are.

    Args:
        mean, spread: propagated serially.
        parallel: mean, propagated as in training; None where that is the same.
        fallbacks: solves in a step of training that the guard had done serially.
    """

    mean: float
    spread: float
    seeds: int
    parallel: float | None
    fallbacks: float

    def __str__(self) -> str:
        text = f"{self.mean:.1f}" + (f" ± {self.spread:.1f}" if self.seeds > 1 else " (1 seed)")
        return text if self.parallel is None else f"{text}; in parallel {self.parallel:.1f}"


def score(runs: Path, method: str, epochs: int, options: dict[str, Any]) -> Score | None:
    """Of all seeds whose run has ended.

    Raises:
        InputError: a run has other options than the table's.
    """
    found, parallel, fallbacks = [], [], []
    for path in sorted(folder(runs, method, epochs, 0).parent.glob("seed*")):
        summary = record.read_summary(path)
        if summary is None:
            continue
        theirs = record.read(path)[0]["options"]
        for name, value in options.items():
            if theirs.get(name) != value:
                raise InputError(
                    f"The run {path} was trained with {name} = {theirs.get(name)}, the table is of "
                    f"{value}: move it away, or train it again."
                )
        serially, other = summary[ACCURACIES[0]], summary.get(ACCURACIES[1])
        found.append(100 * serially)
        parallel.append(100 * (serially if other is None else other))
        steps = epochs * -(-options["training"] // options["batch"])
        fallbacks.append(summary.get("fallbacks", 0) / steps)
    if not found:
        return None
    return Score(
        statistics.mean(found),
        statistics.pstdev(found),
        len(found),
        statistics.mean(parallel) if parallel != found else None,
        statistics.mean(fallbacks),
    )


def joined(rows: Sequence[Row], runs: Path, budget: Budget, options: dict[str, Any]) -> list[Row]:
    """A row for each method: what was measured, predicted and trained."""
    ahead = {(r["method"], r["ranks"]): r for r in rows if r["mark"] == "predicted"}
    found = []
    for each in (r for r in rows if r["mark"] == "measured"):
        name, epochs = each["method"], budget.within(each["ratio"])
        row: Row = {"case": each["case"], "method": name, "gradient": WAYS[name].gradient}
        row |= {key: each[key] for key in ("ratio", "ours_ms", "mib", "kept_mib", "setting")}
        row["epoch_s"] = each["ours_ms"] / 1000 * -(-options["training"] // options["batch"])
        others = {ranks: r for (method, ranks), r in ahead.items() if method == name}
        row["predicted"] = {ranks: r["ratio"] for ranks, r in others.items()}
        row["bytes_sent"] = others[2]["bytes_sent"] if 2 in others else 0
        for key, count in (("equal_epochs", budget.epochs), ("equal_time", epochs)):
            got = score(runs, name, count, options)
            row[key] = {"epochs": count, "accuracy": None, "seeds": 0}
            if got is not None:
                row[key] |= {"accuracy": got.mean, "spread": got.spread, "seeds": got.seeds}
                row[key] |= {"parallel": got.parallel, "fallbacks": got.fallbacks}
        found.append(row)
    return found


# ---- for people ---------------------------------------------------------------------------------


def markdown(rows: Sequence[Row], budget: Budget) -> str:
    """Two tables: of time, and of accuracy and memory."""
    ranks = sorted({r for row in rows for r in row["predicted"] if r > 2})
    time = ["method", "an epoch on 2 processes", *(f"on {r}, predicted" for r in ranks), "gradient"]
    worth = ["method", f"accuracy after {budget.epochs} epochs, %"]
    worth += [f"accuracy in the time of {budget.time} serial epochs, %"]
    worth += ["MiB a process", "MB sent a step"]
    return "\n\n".join(
        [_table(time, [_times(row, ranks) for row in rows]), _table(worth, [*map(_worth, rows)])]
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _times(row: Row, ranks: Sequence[int]) -> list[str]:
    cells = [row["case"], f"{row['ratio']:.2f}× ({row['epoch_s']:.1f} s)"]
    for r in ranks:
        cells.append(f"{row['predicted'][r]:.1f}×" if r in row["predicted"] else "–")
    fallbacks = row["equal_epochs"].get("fallbacks", 0.0)
    serial = f"; {100 * fallbacks / 2:.0f} % of solves done serially" if fallbacks else ""
    return [*cells, row["gradient"] + serial]


def _worth(row: Row) -> list[str]:
    cells = [row["case"], _accuracy(row["equal_epochs"], epochs=False)]
    cells.append(_accuracy(row["equal_time"], epochs=True))
    kept = f" + {row['kept_mib']:.0f}" if row["kept_mib"] else ""
    cells.append(NOT_RUN if row["mib"] is None else f"{row['mib']:.0f}{kept}")
    return [*cells, f"{row['bytes_sent'] / 1e6:.2f}" if row["bytes_sent"] else "–"]


def _accuracy(found: Row, epochs: bool) -> str:
    if found["accuracy"] is None:
        return NOT_RUN
    names = ("accuracy", "spread", "seeds", "parallel", "fallbacks")
    text = str(Score(*(found[name] for name in names)))
    return f"{text} ({found['epochs']} epochs)" if epochs else text


def drawn(rows: Sequence[Row], runs: Path, budget: Budget, path: Path) -> Path:
    """Accuracy over time on two processes, and speed-up over processes."""
    curves = [c for n, row in enumerate(rows) for c in _learning(row, runs, budget, colour(n))]
    left = plot(
        "Test accuracy on two processes, %", curves, "time, in serial epochs", "linear", ticks="real"
    )
    right = plot(
        "Speed-up over one process (2: measured, more: predicted)",
        [_scaling(row, colour(n)) for n, row in enumerate(rows)],
        "processes, as powers of 2",
        "log",
        ticks="real",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    there = [each for each in (left, right) if each is not None]
    return sheet(there, path, "One network, trained by each of the families")


def _learning(row: Row, runs: Path, budget: Budget, shade: str) -> Iterator[Curve]:
    """Of the runs of equal time, the mean over seeds; a point at its end."""
    paths = folder(runs, row["method"], row["equal_time"]["epochs"], 0).parent.glob("seed*")
    histories = []
    for found in sorted(paths):
        if record.read_summary(found) is None:
            continue
        lines = record.history(record.read(found), "epoch")
        histories.append(
            {e["epoch"]: 100 * e["validation_accuracy"] for e in lines if "validation_accuracy" in e}
        )
    if not histories:
        return
    epochs = sorted(set.intersection(*(set(each) for each in histories)))
    mean = np.array([float(np.mean([each[e] for each in histories])) for e in epochs])
    yield Curve(np.array(epochs) / row["ratio"], mean, shade, "solid", row["case"])


def _scaling(row: Row, shade: str) -> Curve | None:
    if not row["predicted"]:
        return None
    points = {2: row["ratio"]} | {r: v for r, v in row["predicted"].items() if r > 2}
    ranks = sorted(points)
    return Curve(
        np.log2(np.array(ranks, dtype=float)),
        np.array([points[r] for r in ranks]),
        shade,
        "solid",
        row["case"],
    )
