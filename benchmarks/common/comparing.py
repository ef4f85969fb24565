"""What all rows have in common: turns, the machine's capacity, and whether a row can be judged."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from workers import BOTH, Crew, Job

from layerparallel.errors import InputError
from layerparallel.solvers.measure import Gradients

Row = dict[str, Any]
CAPACITY = 1.8
"""Speed-up of two independent copies below which a machine is too busy, or too small, to judge."""
CLOSE = 1.2
"""Times the fastest baseline's, up to which others might be the fastest after all."""


def row(case: str, **values: Any) -> Row:
    """With what every benchmark's rows have; ratio is the baseline over ours."""
    empty = {"baseline": None, "baseline_ms": None, "ours_ms": None}
    empty |= {"relative_error": None, "cosine": None}
    found = {"case": case, "threads": "2 processes of 1", **empty, **values}
    theirs, ours = found["baseline_ms"], found["ours_ms"]
    return {"ratio": theirs / ours if theirs and ours else None, **found}


def judged(attempts: int, measure: Callable[[], Row]) -> Row:
    """The row of the first attempt on a quiet machine; if there is none, of the quietest, not judged."""
    rows: list[Row] = []
    for attempt in range(1, attempts + 1):
        rows.append(measure() | {"attempts": attempt})
        if rows[-1]["capacity"] >= CAPACITY:
            return rows[-1] | {"judged": True}
    return max(rows, key=lambda r: r["capacity"]) | {"attempts": len(rows), "judged": False}


def turns(crew: Crew, rounds: int, baselines: dict[str, Job], others: dict[str, Job]) -> Row:
    """Milliseconds of all jobs, and of the fastest baseline.

    Two rounds find the baselines that are close to the fastest, which then take turns with the rest; the
    capacity is of copies of the one that is ahead after these two.
    """
    crew.prepare(*baselines.values(), *others.values())
    first = crew.medians(baselines, 2) if len(baselines) > 1 else dict.fromkeys(baselines, 0.0)
    ahead = min(first, key=lambda label: first[label])
    close = {label: job for label, job in baselines.items() if first[label] <= CLOSE * first[ahead]}
    copies = replace(baselines[ahead], who=BOTH)
    crew.prepare(replace(copies, who=(1,)))
    jobs = {("baseline", label): job for label, job in close.items()}
    jobs |= {("copies", ahead): copies}
    jobs |= {("other", label): job for label, job in others.items()}
    found = crew.medians(jobs, rounds)
    times = {label: found["baseline", label] for label in close}
    name = min(times, key=lambda label: times[label])
    return {
        "baseline": name,
        "baseline_ms": times[name],
        "all_baselines_ms": first | times,
        "capacity": 2 * times[ahead] / found["copies", ahead],
        "times": {label: found["other", label] for label in others},
    }


def merged(parts: list[Gradients]) -> Gradients:
    """The gradient of the whole network from those of both ranks."""
    return {name: value for part in parts for name, value in part.items()}


def told(rows: Sequence[Row], as_json: bool, *keys: str) -> None:
    """Prints rows for people, or as JSON with the lines for people beside it."""
    for found in rows:
        print(line(found, *keys), flush=True, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        json.dump(rows, sys.stdout, indent=1)
        print()
    else:
        print(f"\ntorch {torch.__version__}, {platform.machine()}, Python {platform.python_version()}")


def line(found: Row, *keys: str) -> str:
    """One line for people: the ratio, both times, what else is there under these keys."""
    parts = [f"{found['case']:34}", f"{found['ratio']:6.2f}x"]
    if found["ours_ms"]:
        parts.append(f"{found['baseline_ms']:8.1f} ms ({found['baseline']})")
        parts.append(f"ours {found['ours_ms']:8.1f} ms")
    for key in keys:
        value = found.get(key)
        if value not in (None, ""):
            told = value if isinstance(value, str) else f"{value:.4g}"
            parts.append(f"{key.replace('_', ' ')} {told}")
    if found.get("judged") is False:
        parts.append("NOT JUDGED: the machine was not quiet")
    return "  ".join(parts)


def written(path: Path, command: str, keys: Sequence[str]) -> list[Row]:
    """The rows of a file.

    Args:
        command: that wrote it.
        keys: which every row has.

    Raises:
        InputError: it is not there, or is something else.
    """
    remedy = f"write them by `{command} > {path}`"
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} has no rows: {remedy}.") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} has no rows: {remedy}.")
    for row in rows:
        lacking = [key for key in keys if not isinstance(row, dict) or key not in row]
        if lacking:
            raise InputError(f"A row of {path} has no {lacking[0]}, so they are others': {remedy}.")
    return rows
