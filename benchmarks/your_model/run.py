"""Will it help my model? One gradient of seven kinds, beside what users have now.

    layerparallel bench your_model [--json] [--model NAME ...] [--plot FILE] [--rows FILE]

Ours is the exact gradient (`Serial()`) and the fastest multigrid solver that `lp.tune` finds with a
relative error of at most 0.1. Beside them: plain PyTorch, eager; and what users of such a model take
instead (compiled blocks, torch.compile, torchdiffeq, JAX's compiled scan; what is not installed is left
out). Batch 32, float32, one core: the process is bound to it. All take turns, A B A B; medians. The
gradients of all exact ways are compared before they are timed. Denormals are flushed to zero, which
helps recurrences. `--rows` draws or prints what an earlier run wrote with --json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(Path(__file__).parent))

from baselines import gradient_of
from models import MODELS, Model
from torch.nn import functional

import layerparallel as lp
from layerparallel.network.tuning import describe
from layerparallel.solvers.measure import compare, gradients, median, rounds
from layerparallel.solvers.variants import is_serial

Row = dict[str, Any]
ERROR = 0.1
ROUNDING = 1e-2
"""Relative difference of two gradients in float32; that of a ResNet with batch norm is 2e-3."""


def measure(model: Model, repeats: int) -> Row:
    """The row of one model."""
    tuning = lp.tune(model.net, (model.x, model.y), functional.cross_entropy, error=ERROR, seconds=20)
    tried = [t for t in tuning.trials if t.milliseconds and t.solver and not is_serial(t.solver)]
    best = min(tried, key=lambda t: t.milliseconds or 0.0, default=None)
    solver, error = (best.solver, best.error) if best else (None, None)
    exact = gradient_of(model.net, model.x, model.y)
    calls: dict[str, Callable[[], None]] = {
        "plain": gradient_of(model.plain, model.x, model.y),
        **model.instead,
        "exact": _by(model.net, lp.Serial(), exact),
    }
    if solver is not None:
        calls["multigrid"] = _by(model.net, solver, exact)
    agree(model, calls["exact"])
    times = dict(zip(calls, (median(t) for t in rounds([*calls.values()], repeats)), strict=True))
    instead = min(model.instead, key=lambda name: times[name]) if model.instead else None
    ours = min(times[key] for key in ("exact", "multigrid") if key in times)
    return {
        "case": model.name,
        "about": model.about,
        "threads": 1,
        "baseline": "eager PyTorch",
        "baseline_ms": times["plain"],
        "instead": instead,
        "instead_ms": times[instead] if instead else None,
        "all_ms": times,
        "exact_ms": times["exact"],
        "multigrid_ms": times.get("multigrid"),
        "setting": describe(solver) if solver else None,
        "relative_error": error.relative if error else None,
        "cosine": error.cosine if error else None,
        "ours_ms": ours,
        "ratio": times["plain"] / ours,
        "ratio_exact": times["plain"] / times["exact"],
        "ratio_to_instead": times[instead] / ours if instead else None,
    }


def _by(net: lp.Network, solver: Any, gradient: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        with net.solved_by(solver):
            gradient()

    return call


def agree(model: Model, exact: Callable[[], None]) -> None:
    """Refuses rows whose ways compute something else.

    Raises:
        RuntimeError: a gradient differs from plain PyTorch's by more than rounding.
    """
    gradient_of(model.plain, model.x, model.y)()
    plain = gradients(model.plain)
    for name, call in {**model.instead, "layerparallel": exact}.items():
        call()
        if name in model.found:
            key, found = model.found[name]
            theirs = {key: found()}
        else:  # of the parameters of plain PyTorch itself, or of ours where names are the same
            theirs = gradients(model.plain if name in model.instead else model.net)
        shared = theirs.keys() & plain.keys()
        error = compare(
            {key: theirs[key] for key in shared}, {key: plain[key] for key in shared}
        ).relative
        if error > ROUNDING:
            raise RuntimeError(f"{model.name}: the gradient by {name} differs by {error:.1e}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    names = [make.__name__ for make in MODELS]
    parser.add_argument("--model", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the speed-ups there")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="of an earlier run, from --json")
    args = parser.parse_args(argv)
    harness.at_least_one(parser, args, "repeats")
    rows = json.loads(args.rows.read_text()) if args.rows else measured(args)
    if args.plot:
        plot(rows, args.plot)
    if args.json:
        harness.print_json(rows)
    else:
        print(markdown(rows))
    return 0


def measured(args: argparse.Namespace) -> list[Row]:
    """The rows, on one core."""
    harness.one_core()
    rows = []
    for make in MODELS:
        if make.__name__ in args.model:
            rows.append(measure(make(), args.repeats))
            print(line(rows[-1]), file=sys.stderr, flush=True)
    return rows


def line(row: Row) -> str:
    """One line for people."""
    each = "  ".join(f"{name} {value:.1f}" for name, value in row["all_ms"].items())
    error = f", error {row['relative_error']:.1e}, {row['setting']}" if row["setting"] else ""
    instead = f", {row['ratio_to_instead']:.2f}x {row['instead']}" if row["instead"] else ""
    return f"{row['case']:28} {row['ratio']:6.2f}x plain PyTorch{instead}; ms: {each}{error}"


def markdown(rows: Sequence[Row]) -> str:
    """The table of README."""
    head = ["your model", "plain PyTorch", "ours, exact", "ours, error ≤ 0.1", "what else there is"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        plain = row["baseline_ms"]
        exact = _over(plain, row["exact_ms"])
        multigrid = _over(plain, row["multigrid_ms"]) if row["multigrid_ms"] else "no setting"
        instead = f"{row['instead']}: {_over(plain, row['instead_ms'])}" if row["instead"] else ""
        lines.append([row["case"], f"{plain:.0f} ms", exact, multigrid, instead])
    return "\n".join("| " + " | ".join(each) + " |" for each in lines)


def _over(theirs: float, ours: float) -> str:
    ratio = theirs / ours
    return f"{ratio:.1f}×" if ratio >= 1.05 else f"{ratio:.2f}×" + (", loses" if ratio < 0.95 else "")


def plot(rows: Sequence[Row], file: Path) -> None:
    """Speed over plain PyTorch, a group of bars for every model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = {
        "instead_ms": ("the best of what else there is", "#999999"),
        "exact_ms": ("layerparallel, exact", "#56b4e9"),
        "multigrid_ms": ("layerparallel, multigrid, error ≤ 0.1", "#0072b2"),
    }
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for k, (key, (label, colour)) in enumerate(kinds.items()):
        at = [n + (k - 1) * 0.27 for n, row in enumerate(rows) if row[key]]
        ratios = [row["baseline_ms"] / row[key] for row in rows if row[key]]
        bars = axis.barh(at, [r - 1 for r in ratios], 0.25, left=1, color=colour, label=label)
        axis.bar_label(bars, [f"{ratio:.2g}×" for ratio in ratios], padding=3, fontsize=8)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xscale("log")
    axis.margins(x=0.12)
    ticks = (0.25, 0.5, 1, 2, 5, 10, 20, 50)
    axis.set_xticks(ticks, [f"{tick:g}×" for tick in ticks], minor=False)
    axis.minorticks_off()
    axis.set_yticks(range(len(rows)), [row["case"] for row in rows])
    axis.invert_yaxis()
    axis.set_xlabel("speed of one gradient over plain PyTorch, one core, batch 32")
    axis.legend(loc="lower right", fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
