"""Tables 1 to 5 of Sun et al. (2021), the published figures beside ours.

    layerparallel bench sun_tables [--plan paper|small] [--table N ...] [--json]
    layerparallel bench sun_tables --commands [--seeds 3] [--device cuda] | sh     # trains the rows
    layerparallel bench sun_tables --time [--device cuda] > times.json             # times their stages
    layerparallel bench sun_tables --runs runs/sun --times times.json
    layerparallel bench sun_tables --runs runs/sun --times times.json --plot figures

Every figure of ours has a mark. `measured`: the accuracy of runs found below --runs, which have to be of
the row's own options; the speed-up of rows that `bench auxiliary --json` wrote (--speed). `predicted`:
memory, counted from the shapes of what is kept; speed-ups for K devices, by equation (9) from stages
that were timed one after the other on this one, and by (11) for hybrids. `not run`: neither.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import torch

sys.path.insert(0, str(Path(__file__).parent))

import figures
import plan as plans
from plan import PLANS, Plan
from tables import TABLES, TITLES, Row, parallel_speedup
from timing import Times, time_stages

from layerparallel.solvers.cost import hybrid_speedup


@dataclass(frozen=True)
class Cell:
    """A figure of ours and where it comes from."""

    value: float | None = None
    mark: str = "not run"

    def text(self, digits: int = 2) -> str:
        """For people."""
        return self.mark if self.value is None else f"{self.value:.{digits}f} {self.mark}"


NONE = Cell(None, "-")
"""Where there is nothing to be found."""


@dataclass(frozen=True)
class Found:
    """Where figures of ours are taken from."""

    runs: Path
    times: dict[str, Times]
    speed: dict[tuple[int, str], Cell]

    def score(self, plan: Plan | None, row: Row) -> Cell:
        """Accuracy in percent; in table 5 the test loss."""
        got = plans.measured(plan, row, self.runs) if plan else None
        if got is None:
            return Cell()
        seeds = "1 seed" if got.seeds == 1 else f"{got.seeds} seeds, ±{got.spread:.2f}"
        return Cell(got.score, f"measured ({seeds})")

    def memory(self, plan: Plan | None, row: Row) -> Cell:
        """GiB."""
        if row.method == "serial":
            return NONE
        return Cell(plans.memory(plan, row), "predicted") if plan else Cell()

    def speedup(self, plan: Plan | None, row: Row) -> Cell:
        """Over serial training, per epoch."""
        if row.method == "serial":
            return NONE if row.share == 1 else Cell(1 / row.share, "by its epochs")
        if plan is None:
            return Cell()
        measured = self.speed.get((plan.options["depth"], row.label))
        if measured is not None:
            return measured
        times = self.times.get(Times.key(plan, row))
        if times is None:
            return Cell()
        parallel = times.speedup()
        whole = parallel if row.ratio is None else hybrid_speedup(parallel, float(row.ratio))
        return Cell(whole, "predicted")


def timed(row: dict[str, Any]) -> Cell:
    """A row of `bench auxiliary`: two processes against one."""
    return Cell(row["ratio"], "measured" if row["judged"] else "measured (not judged)")


def equation(row: Row) -> float | None:
    """Equation (11), of the published speed-up without serial epochs; None where it does not apply."""
    parallel = parallel_speedup(row)
    if row.ratio is None or parallel is None:
        return None
    return hybrid_speedup(parallel, float(row.ratio))


def lines(name: str, table: int, found: Found) -> list[dict[str, Any]]:
    """A table row by row."""
    rows = []
    for plan, row in plans.rows(name, table):
        ours = {
            "memory": found.memory(plan, row),
            "score": found.score(plan, row),
            "speedup": found.speedup(plan, row),
        }
        line: dict[str, Any] = {"table": table, "case": row.label, "plan": name}
        for key, cell in ours.items():
            published = getattr(row, key) if row.share == 1 else None
            line |= {f"paper_{key}": published, f"our_{key}": cell.value, f"{key}_mark": cell.mark}
        rows.append(line | {"equation_11": equation(row)})
    if table == LOSSES:
        for line in rows:
            for whose in ("paper", "our"):
                own, serial = line[f"{whose}_score"], rows[0][f"{whose}_score"]
                line[f"{whose}_over_serial"] = own / serial if own and serial else None
    return rows


LOSSES = 5
"""The table whose scores are losses: shown over that of serial training, too."""


HEAD = ["method", "GiB: paper", "ours", "score: paper", "ours", "speed-up: paper", "eq. (11)", "ours"]


def markdown(name: str, table: int, rows: list[dict[str, Any]]) -> str:
    """A table for people."""
    head = [*HEAD, "over serial: paper", "ours"] if table == LOSSES else HEAD
    cells = [head, ["---"] * len(head)]
    for row in rows:
        digits = 3 if table == LOSSES else 2
        line = [row["case"]]
        for key, places in (("memory", 2), ("score", digits), ("speedup", 2)):
            line.append(_number(row[f"paper_{key}"], places))
            line += [_number(row["equation_11"], 2)] if key == "speedup" else []
            line.append(Cell(row[f"our_{key}"], row[f"{key}_mark"]).text(places))
        if table == LOSSES:
            line += [_number(row[f"{whose}_over_serial"], 3) for whose in ("paper", "our")]
        cells.append(line)
    plan = PLANS[name].get(table)
    title = f"{TITLES[table]} (ours: {plan.ours})" if plan and plan.ours else TITLES[table]
    return "\n".join([f"### {title}", "", *("| " + " | ".join(line) + " |" for line in cells), ""])


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def commands(name: str, chosen: list[int], seeds: int, runs: Path, more: dict[str, Any]) -> list[str]:
    """Trains every row once for each seed; runs that two tables share once."""
    found = []
    for table in chosen:
        for plan, row in plans.rows(name, table):
            for seed in range(seeds if plan else 0):
                assert plan is not None
                found.append(shlex.join(plans.command(plan, row, seed, runs, more)))
    return list(dict.fromkeys(found))


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--plan", choices=[*PLANS], default="paper")
    parser.add_argument("--table", nargs="+", type=int, choices=[*TABLES], default=[*TABLES])
    parser.add_argument("--runs", type=Path, default=Path("runs/sun"), help="folder of the rows' runs")
    parser.add_argument("--times", type=Path, help="what --time wrote")
    parser.add_argument("--speed", type=Path, help="what `bench auxiliary --json` wrote")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw figures 4, 5, 8 and 9 there")
    parser.add_argument("--commands", action="store_true", help="print what trains the rows")
    parser.add_argument("--seeds", type=int, default=1, help="of --commands")
    parser.add_argument("--time", action="store_true", help="time the stages, and print that as JSON")
    parser.add_argument("--rounds", type=int, default=5, help="of --time")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args(argv)
    if args.commands:
        more = {} if args.device == "cpu" else {"device": args.device}
        print(*commands(args.plan, args.table, args.seeds, args.runs, more), sep="\n")
        return 0
    if args.time:
        torch.set_num_threads(1)
        wanted = [pair for table in args.table for pair in plans.rows(args.plan, table)]
        harness.print_json(time_stages(wanted, args.device, args.rounds))
        return 0
    times = json.loads(args.times.read_text()) if args.times else {}
    speed = json.loads(args.speed.read_text()) if args.speed else []
    found = Found(
        runs=args.runs,
        times={key: Times(**value) for key, value in times.items()},
        speed={(each["depth"], each["case"]): timed(each) for each in speed if each.get("depth")},
    )
    if args.plot:
        drawn = figures.draw(args.plan, found, args.plot)
        print(*(drawn or [f"Nothing to draw: {args.runs} has no ended runs of the plan."]), sep="\n")
        return 0
    tables = {table: lines(args.plan, table, found) for table in args.table}
    if args.json:
        harness.print_json([row for rows in tables.values() for row in rows])
        return 0
    for table, rows in tables.items():
        print(markdown(args.plan, table, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
