"""Will it help my model? One gradient of seven kinds of model, beside what their users have now.

    layerparallel bench your_model [--json] [--model NAME ...]

Ours is the exact gradient (`Serial()`) and the fastest multigrid solver that `lp.tune` finds with a
relative error of at most 0.1. Beside them: plain PyTorch, eager; and what users of such a model take
instead (compiled blocks, torch.compile, torchdiffeq, JAX's compiled scan; what is not installed is left
out). Batch 32, float32, one core: the process is bound to it. All take turns, A B A B; medians. The
gradients of all exact ways are compared before they are timed. Denormals are flushed to zero, which
helps recurrences.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
import torch
import torch._dynamo.config

sys.path.insert(0, str(Path(__file__).parent))

from baselines import gradient_of
from models import MODELS, Model
from torch.nn import functional

import layerparallel as lp
from layerparallel.network.tuning import describe
from layerparallel.solvers.measure import median, rounds

Row = dict[str, Any]
ERROR = 0.1


def measure(model: Model, repeats: int) -> Row:
    """The row of one model."""
    tuning = lp.tune(model.net, (model.x, model.y), functional.cross_entropy, error=ERROR)
    tried = [t for t in tuning.trials if isinstance(t.solver, lp.MGRIT) and t.milliseconds]
    best = min(tried, key=lambda t: t.milliseconds or 0.0, default=None)
    exact = gradient_of(model.net, model.x, model.y)
    calls: dict[str, Callable[[], None]] = {
        "plain": gradient_of(model.plain, model.x, model.y),
        **model.instead,
        "exact": _by(model.net, lp.Serial(), exact),
    }
    if best is not None:
        calls["multigrid"] = _by(model.net, best.solver, exact)
    agree(model, calls)
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
        "setting": describe(best.solver) if best else None,
        "relative_error": best.error.relative if best else None,
        "cosine": best.error.cosine if best else None,
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


def agree(model: Model, calls: dict[str, Callable[[], None]]) -> None:
    """Refuses rows whose ways compute something else.

    Raises:
        RuntimeError: a gradient differs from plain PyTorch's by more than rounding.
    """
    for name in calls:
        calls[name]()
    calls["plain"]()
    plain = {key: p.grad for key, p in model.plain.named_parameters()}
    for name, (key, found) in model.found.items():
        theirs, ours = found(), plain[key]
        assert ours is not None
        error = float((theirs - ours).norm() / ours.norm())
        if error > 1e-3:
            raise RuntimeError(f"{model.name}: the gradient by {name} differs by {error:.1e}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    names = [make.__name__ for make in MODELS]
    parser.add_argument("--model", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args(argv)
    harness.at_least_one(parser, args, "repeats")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch._dynamo.config.recompile_limit = 256
    rows = []
    for make in MODELS:
        if make.__name__ in args.model:
            rows.append(measure(make(), args.repeats))
            print(line(rows[-1]), file=sys.stderr if args.json else sys.stdout, flush=True)
    if args.json:
        harness.print_json(rows)
    return 0


def line(row: Row) -> str:
    """One line for people."""
    each = "  ".join(f"{name} {value:.1f}" for name, value in row["all_ms"].items())
    error = f", error {row['relative_error']:.1e}, {row['setting']}" if row["setting"] else ""
    instead = f", {row['ratio_to_instead']:.2f}x {row['instead']}" if row["instead"] else ""
    return f"{row['case']:28} {row['ratio']:6.2f}x plain PyTorch{instead}; ms: {each}{error}"


if __name__ == "__main__":
    sys.exit(main())
