"""Accuracy of parareal networks by their number of subnetworks.

    layerparallel bench parareal_tables [--plan small|paper] [--json]
    layerparallel bench parareal_tables --commands [--seeds 3] [--device cuda] | sh   # trains the rows
    layerparallel bench parareal_tables --runs runs/parareal --speed speed.json
    layerparallel bench parareal_tables --runs runs/parareal --plot figures

Every figure of ours has a mark. `measured`: the accuracy of runs found below --runs, which must be of
the row's own options; the speed-up of rows that `bench parareal --json` timed (--speed). `predicted`:
speed-ups that it predicted. `not run`: neither. The plot is of the training loss, as figure 2 of Lee,
Lee and Park (2022): a curve for each N, the mean over the seeds.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import harness
from comparing import written
from parareal_plan import PLANS, Plan, Row

from layerparallel.report.drawing import Curve, plot, sheet
from layerparallel.report.look import look
from layerparallel.runs import record

NOT_RUN = "not run"
RUNS = Path("runs/parareal")
Speed = dict[tuple[int | None, int | None, int], tuple[float, str]]
"""Speed-up and mark by depth, width and N."""


def speeds(path: Path) -> Speed:
    """Of what `bench parareal --json` wrote; of N = 2 the coarse network on every rank.

    Raises:
        InputError: there is no such file, or it has no such rows.
    """
    found: Speed = {}
    for each in written(path, "layerparallel bench parareal --json", ("case", "ratio", "mark")):
        if each["case"].startswith("parareal") and each["case"].endswith("every"):
            doubt = " (not judged)" if each.get("judged") is False else ""
            found[each["depth"], each["width"], each["count"]] = each["ratio"], each["mark"] + doubt
    return found


def lines(plan: Plan, runs: Path, speed: Speed) -> list[dict[str, Any]]:
    """A table row by row."""
    found, serial = [], None
    for row in plan.rows():
        got = row.measured(runs)
        if row.itself:
            serial = got
        ratio, mark = None, "-"
        if row.method == "parareal":
            size = plan.options.get("depth"), plan.options.get("width")
            ratio, mark = speed.get((*size, row.count), (None, NOT_RUN))
        gap = got.score - serial.score if got and serial and not row.itself else None
        found.append(
            {
                "table": plan.title,
                "case": row.label,
                "published": plan.published if row.itself else None,
                "accuracy": got.score if got else None,
                "spread": got.spread if got else None,
                "seeds": got.seeds if got else 0,
                "accuracy_mark": "measured" if got else NOT_RUN,
                "points_over_serial": gap,
                "speedup": ratio,
                "speedup_mark": mark,
            }
        )
    return found


HEAD = ["network", "accuracy: published", "ours", "points over N = 1", "speed-up"]


def markdown(plan: Plan, rows: Sequence[dict[str, Any]]) -> str:
    """A table for people."""
    cells = [HEAD, ["---"] * len(HEAD)]
    for row in rows:
        ours = NOT_RUN
        if row["accuracy"] is not None:
            count = "1 seed" if row["seeds"] == 1 else f"{row['seeds']} seeds, ±{row['spread']:.2f}"
            ours = f"{row['accuracy']:.2f} measured ({count})"
        published = "-" if row["published"] is None else f"{row['published']:.2f}"
        gap = "-" if row["points_over_serial"] is None else f"{row['points_over_serial']:+.2f}"
        ratio, mark = row["speedup"], row["speedup_mark"]
        cells.append(
            [row["case"], published, ours, gap, mark if ratio is None else f"{ratio:.2f} {mark}"]
        )
    source = [f"Published: {plan.source}.", ""] if plan.source else []
    table = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([f"### {plan.title}", "", *table, "", *source])


def commands(chosen: Sequence[Plan], seeds: int, runs: Path, more: dict[str, Any]) -> list[str]:
    """Trains every row once for each seed."""
    rows = [row for plan in chosen for row in plan.rows()]
    return [shlex.join(row.command(seed, runs, more)) for row in rows for seed in range(seeds)]


def drawn(chosen: Sequence[Plan], runs: Path, folder: Path) -> Path | None:
    """The training losses of all tables in one picture; None where nothing has ended."""
    plots = []
    for plan in chosen:
        curves = [_curve(row, runs, number) for number, row in enumerate(plan.rows())]
        plots.append(plot(f"Training loss, {plan.title}", curves, "epochs", "loss per sample", "log"))
    there = [each for each in plots if each is not None]
    if not there:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return sheet(there, folder / "training_loss.png", "Parareal networks by their subnetworks N")


def _curve(row: Row, runs: Path, number: int) -> Curve | None:
    losses = []
    for path in row.ended(runs):
        losses.append([each["train_loss"] for each in record.history(record.read(path), "epoch")])
    if not losses:
        return None
    mean = np.mean(np.array(losses), axis=0)
    return Curve(np.arange(1.0, len(mean) + 1), mean, look(number), label=row.label)


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--plan", choices=[*PLANS], default="paper")
    parser.add_argument("--runs", type=Path, default=RUNS, help="the rows' runs")
    parser.add_argument("--speed", type=Path, help="what `bench parareal --json` wrote")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the training losses there")
    parser.add_argument("--commands", action="store_true", help="print what trains the rows")
    parser.add_argument("--seeds", type=int, default=3, help="of --commands")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args(argv)
    chosen = PLANS[args.plan]
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds} is below 1: give at least 1")
    if args.runs != RUNS and not (args.commands or args.runs.is_dir()):
        parser.error(f"--runs {args.runs} is no folder: give that of the runs that --commands prints")
    if args.commands:
        more = {} if args.device == "cpu" else {"device": args.device}
        print(*commands(chosen, args.seeds, args.runs, more), sep="\n")
        return 0
    if args.plot:
        print(drawn(chosen, args.runs, args.plot) or f"Nothing to draw: {args.runs} has no ended runs.")
        return 0
    speed = speeds(args.speed) if args.speed else {}
    tables = [(plan, lines(plan, args.runs, speed)) for plan in chosen]
    if args.json:
        harness.print_json([row for _, rows in tables for row in rows])
        return 0
    for plan, rows in tables:
        print(markdown(plan, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
