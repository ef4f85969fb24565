"""Where layer-parallel training stops winning: width x batch x depth.

    layerparallel bench map [--json] [--plot FILE] [--device cuda]

Dense tanh layers, independent weights, T = 1. A cell is the time of eager autograd over ours: of the
fastest MGRIT setting with cosine >= 0.99, and of our exact `Serial()`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import torch

import layerparallel as lp
from layerparallel.network.tuning import describe
from layerparallel.solvers.measure import compare, gradients, median, rounds

DEPTHS = (64, 256, 1024)
WIDTHS = (4, 16, 64, 256)
BATCHES = (1, 16, 64, 256, 1024)


def settings(depth: int) -> list[lp.MGRIT]:
    found = []
    for m in (4, 8, 16, 32):
        if depth // m < 2:
            continue
        once = lp.MGRIT(coarsening=m, forward_cycles=1, adjoint_cycles=1)
        found.append(replace(once, coarse="inject"))
        found.append(replace(once, coarse="mean_parameters"))
        found.append(replace(once, coarse="picard", samples=2))
    return found


def cell(depth: int, width: int, batch: int, device: str, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    body = lp.chain(lp.Dense(width), depth, T=1.0, initial="independent")
    net = lp.Network(None, body, None).to(device)
    serial = net.to_serial()
    x = torch.randn(batch, width, device=device)

    def step(module: torch.nn.Module) -> None:
        module.zero_grad(set_to_none=True)
        module(x).square().mean().backward()

    def solved(solver: lp.Serial | lp.MGRIT) -> None:
        with net.solved_by(solver):
            step(net)

    solved(lp.Serial())
    exact = gradients(net)
    good: list[lp.MGRIT] = []
    errors = []
    for solver in settings(depth):
        solved(solver)
        error = compare(gradients(net), exact, depth)
        if error.cosine >= 0.99:
            good.append(solver)
            errors.append(error)
    calls = [lambda s=s: solved(s) for s in good]
    first = [median(t) for t in rounds(calls, 3, device)]
    best = first.index(min(first))
    final = rounds([lambda: step(serial), lambda: solved(lp.Serial()), calls[best]], repeats, device)
    eager, ours_serial, ours = (median(t) for t in final)
    return {
        "case": f"N={depth} width={width} batch={batch}",
        "depth": depth,
        "width": width,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "device": device,
        "baseline": "eager autograd",
        "baseline_ms": eager,
        "ours_ms": ours,
        "ratio": eager / ours,
        "serial_ratio": eager / ours_serial,
        "setting": describe(good[best]),
        "relative_error": errors[best].relative,
        "cosine": errors[best].cosine,
    }


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """One panel a depth: MGRIT's ratio as colour and number, that of `Serial()` small below it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colors, patches
    from matplotlib import pyplot as plt

    depths = sorted({int(r["depth"]) for r in rows})
    widths = sorted({int(r["width"]) for r in rows})
    batches = sorted({int(r["batch"]) for r in rows})
    figure, axes = plt.subplots(
        1, len(depths), figsize=(4.2 * len(depths), 3.6), squeeze=False, layout="constrained"
    )
    norm = colors.LogNorm(1 / 16, 16)
    for axis, depth in zip(axes[0], depths, strict=True):
        axis.set_title(f"{depth} layers")
        for row in rows:
            if row["depth"] != depth:
                continue
            i, j = widths.index(row["width"]), batches.index(row["batch"])
            ratio = float(row["ratio"])
            axis.add_patch(
                patches.Rectangle((j - 0.5, i - 0.5), 1, 1, color=plt.get_cmap("RdBu")(norm(ratio)))
            )
            ink = "white" if abs(norm(ratio) - 0.5) > 0.3 else "black"
            axis.text(j, i + 0.08, f"{ratio:.1f}", ha="center", va="bottom", color=ink, size=11)
            axis.text(
                j,
                i - 0.08,
                f"serial {row['serial_ratio']:.1f}",
                ha="center",
                va="top",
                color=ink,
                size=7,
            )
        axis.set_xlim(-0.5, len(batches) - 0.5)
        axis.set_ylim(-0.5, len(widths) - 0.5)
        axis.set_xticks(range(len(batches)), batches)
        axis.set_yticks(range(len(widths)), widths)
        axis.set_xlabel("batch")
    axes[0][0].set_ylabel("width")
    figure.suptitle("Speed-up of one gradient over eager PyTorch (cosine ≥ 0.99); small: exact Serial()")
    figure.savefig(file, dpi=130)


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--plot", type=Path, help="write the map as a picture")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for depth in args.depths:
        for width in args.widths:
            for batch in args.batches:
                if depth * width**2 * max(batch, 16) > 1 << 29:
                    continue  # arithmetic alone fills the machine: nothing more to learn
                row = cell(depth, width, batch, args.device, args.repeats)
                rows.append(row)
                print(
                    f"{row['case']:30} {row['baseline_ms']:9.2f} ms  MGRIT {row['ratio']:6.2f}x  "
                    f"Serial() {row['serial_ratio']:5.2f}x  {row['setting']}",
                    file=sys.stderr if args.json else sys.stdout,
                    flush=True,
                )
    if args.plot:
        plot(rows, args.plot)
    if args.json:
        harness.print_json(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
