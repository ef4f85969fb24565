"""One exact gradient of small steps in native loops, beside what else computes it.

    layerparallel bench native [--json] [--case NAME ...] [--repeats N] [--compiled]

Ours is `Serial()` in native loops, forward and backward with all gradients, float32, one thread on one
core. Beside it in the same run, all in turns, medians: plain PyTorch, eager (nn.GRU for a recurrence);
compiled blocks of 16 layers with --compiled (minutes of compiling); torchdiffeq and JAX's compiled scan
where they are installed. Denormals are flushed for all. `error` is the largest difference of a gradient
from float64, over the largest of that gradient.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import harness
from baselines import COMPILED, gradient_of
from models import JAX, Model, neural_ode, own_module, recurrence, residual_mlp

from layerparallel.solvers.measure import gradients, median, rounds

Row = dict[str, Any]
CASES: dict[str, Callable[[], Model]] = {
    **{f"dense 8, batch {b}": partial(own_module, 1024, 8, b) for b in (1, 8, 32, 256)},
    **{f"dense 32, batch {b}": partial(own_module, 1024, 32, b) for b in (32, 256)},
    "dense 64, batch 256": partial(own_module, 1024, 64, 256),
    **{f"tied MLP, Euler, batch {b}": partial(neural_ode, 1024, b) for b in (32, 256)},
    **{f"tied MLP, RK4, batch {b}": partial(neural_ode, 1024, b, "rk4") for b in (32, 256)},
    **{f"GRU 16, batch {b}": partial(recurrence, 1024, 16, b) for b in (8, 32)},
    "GRU 64, batch 32": partial(recurrence, 1024, 64, 32),
    **{f"LayerNorm MLP, batch {b}": partial(residual_mlp, 256, b) for b in (32, 256)},
}


def measure(name: str, model: Model, repeats: int, compiled: bool) -> Row:
    """The row of one case."""
    calls = {
        "eager": gradient_of(model.plain, model.x, model.y),
        **{k: call for k, call in model.instead.items() if compiled or k != COMPILED},
        "native": gradient_of(model.net, model.x, model.y),
    }
    calls["native"]()
    way = model.net.chains[0].way
    if way != "native loops":
        raise RuntimeError(f"{name} goes by {way}")
    times = dict(zip(calls, map(median, rounds([*calls.values()], repeats)), strict=True))
    torchs = min(v for k, v in times.items() if k not in ("native", JAX))
    row = {"case": name, "about": model.about, "threads": 1, "ms": times, "native_ms": times["native"]}
    row["over_torch"] = torchs / times["native"]
    row["over_jax"] = times[JAX] / times["native"] if JAX in times else None
    row["error"] = error(model)
    return row


def error(model: Model) -> float:
    """Of our gradients in float32, against float64."""
    exact = copy.deepcopy(model.net).double()
    gradient_of(model.net, model.x, model.y)()
    gradient_of(exact, model.x.double(), model.y)()
    ours, right = gradients(model.net), gradients(exact)
    return max(float((ours[key].double() - g).abs().max() / g.abs().max()) for key, g in right.items())


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES), help="only these")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="beside compiled blocks of 16, too")
    args = parser.parse_args(argv)
    harness.at_least_one(parser, args, "repeats")
    rows = measured(args)
    if args.json:
        harness.print_json(rows)
    else:
        print(markdown(rows))
    return 0


def measured(args: argparse.Namespace) -> list[Row]:
    """The rows, on one core."""
    os.environ["LAYERPARALLEL_NATIVE"] = "1"
    harness.one_core()
    rows = []
    for name in args.case:
        rows.append(measure(name, CASES[name](), args.repeats, args.compiled))
        each = "  ".join(f"{k} {v:.2f}" for k, v in rows[-1]["ms"].items())
        print(f"{name:28} {each} ms; error {rows[-1]['error']:.1e}", file=sys.stderr, flush=True)
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """A table for people."""
    head = ["chain", "native, exact", "over the best of PyTorch", "over JAX's scan", "error"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        jax = f"{row['over_jax']:.1f}×" if row["over_jax"] else "not installed"
        each = [row["case"], f"{row['native_ms']:.2f} ms", f"{row['over_torch']:.0f}×", jax]
        lines.append([*each, f"{row['error']:.0e}"])
    return "\n".join("| " + " | ".join(each) + " |" for each in lines)


if __name__ == "__main__":
    sys.exit(main())
