"""Pictures of a run: RUN/plots/*.png."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerparallel.record import history, read, read_summary

OURS, THEIRS = "#1f5fbf", "#d1495b"
FORWARD, ADJOINT = "#1f5fbf", "#e08e1b"
BANDS = ("#3b4cc0", "#8db0fe", "#c9c9c9", "#f4987a", "#b40426")
INK, GRID = "#222222", "#d9d9d9"


OURS_ALONE = ("training.png", "residuals.png")
"""What `plots` draws, for every run; a recipe draws what it alone knows under other names."""


def folder_of(run: Path) -> Path:
    """RUN/plots, made where it is not there."""
    folder = run / "plots"
    folder.mkdir(exist_ok=True)
    return folder


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 11,
            "axes.titlesize": 12.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.7,
            "lines.linewidth": 2.0,
            "legend.frameon": False,
            "figure.dpi": 130,
            "savefig.bbox": "tight",
        }
    )
    return plt


def plots(run: Path) -> list[Path]:
    """Draw what every run has: loss and accuracy over time, and residuals. Returns the files."""
    records = read(run)
    return [training(run, records), residuals(run, records)]


def _column(lines: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    """One value of every line; NaN where a line has none."""
    values = [line.get(key) for line in lines]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _over_time(axes: Any, lines: list[dict[str, Any]], key: str, **style: Any) -> None:
    seconds, values = _column(lines, "seconds"), _column(lines, key)
    there = np.isfinite(values)
    axes.plot(seconds[there], values[there], **style)


def training(run: Path, records: list[dict[str, Any]]) -> Path:
    """Loss and validation accuracy over seconds of training, ours and serial."""
    plt = _pyplot()
    ours, theirs = history(records, "epoch"), history(records, "serial")
    summary = read_summary(run) or {}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    styles = (
        (ours, {"color": OURS, "label": f"layer-parallel, {len(ours)} epochs"}),
        (theirs, {"color": THEIRS, "label": f"serial PyTorch, {len(theirs)} epochs"}),
    )
    for lines, style in styles:
        if not lines:
            continue
        marker = "o" if len(lines) < 15 else ""
        _over_time(left, lines, "train_loss", marker=marker, markersize=4, **style)
        _over_time(right, lines, "validation_accuracy", marker=marker, markersize=4, **style)
    left.set(title="Training loss", xlabel="seconds of training", ylabel="cross-entropy")
    left.set_yscale("log")
    from matplotlib.ticker import LogLocator, PercentFormatter, ScalarFormatter

    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(ScalarFormatter())
    left.minorticks_off()
    right.set(title="Validation accuracy", xlabel="seconds of training")
    right.set_ylim(top=1.0)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (left, right):
        axes.set_xlim(left=0)
    if left.lines:
        left.legend(loc="upper right")
    if summary.get("serial_ratio"):
        right.text(
            0.98,
            0.06,
            f"final accuracy {summary['validation_accuracy']:.1%}\n"
            f"an epoch: {summary['epoch_seconds']:.2f} s, serially "
            f"{summary['serial_epoch_seconds']:.2f} s\n"
            f"{summary['serial_ratio']:.1f} times as fast",
            transform=right.transAxes,
            ha="right",
            va="bottom",
            linespacing=1.5,
            color=INK,
        )
    return _save(plt, figure, run, "training.png")


def residuals(run: Path, records: list[dict[str, Any]]) -> Path:
    """Residuals cycle by cycle on the trained network, and of the last cycle during training."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    cycles = (history(records, "cycles") or [{"forward": [], "adjoint": []}])[-1]
    for name, color in (("forward", FORWARD), ("adjoint", ADJOINT)):
        values = np.array(cycles[name], dtype=float)
        if values.size:
            style = {"color": color, "label": name, "marker": "o", "markersize": 5}
            left.plot(np.arange(1, values.size + 1), values / values[0], **style)
        epochs = history(records, "epoch")
        during = _column(epochs, f"{name}_residual")
        if np.isfinite(during).any():
            right.plot(np.arange(1, during.size + 1), during, color=color, label=name)
    left.set(
        title="Residual per cycle, trained network",
        xlabel="cycle",
        ylabel="residual / first residual",
    )
    right.set(
        title="Residual at the end of each solve",
        xlabel="epoch",
        ylabel="residual / norm of the states",
    )
    for axes in (left, right):
        if axes.lines:
            axes.set_yscale("log")
            axes.legend(loc="best")
        else:
            axes.text(0.5, 0.5, "propagated serially", transform=axes.transAxes, ha="center")
    left.xaxis.get_major_locator().set_params(integer=True)
    return _save(plt, figure, run, "residuals.png")


def regions(
    path: Path,
    predicted: NDArray[np.int64],
    side: float,
    points: NDArray[np.float64],
    classes: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    title: str,
) -> Path:
    """Decision regions over the square [-side, side]² with points on them.

    Args:
        predicted: class of every cell `(cells, cells)`, [row y, column x].
        points: `(n, 2)`; classes: `(n,)`; wrong: `(n,)`, which of them the network misses.
    """
    plt = _pyplot()
    from matplotlib.colors import ListedColormap
    from matplotlib.lines import Line2D

    figure, axes = plt.subplots(figsize=(7.6, 6.2), layout="constrained")
    colors = ListedColormap(BANDS)
    limits = (-side, side, -side, side)
    axes.imshow(
        predicted,
        origin="lower",
        extent=limits,
        cmap=colors,
        vmin=-0.5,
        vmax=len(BANDS) - 0.5,
        alpha=0.55,
        interpolation="nearest",
    )
    for missed, size, edge, width in ((False, 26, "white", 0.6), (True, 46, "black", 1.4)):
        chosen = wrong == missed
        axes.scatter(
            *points[chosen].T,
            c=classes[chosen],
            cmap=colors,
            vmin=-0.5,
            vmax=len(BANDS) - 0.5,
            s=size,
            edgecolors=edge,
            linewidths=width,
            zorder=3 + missed,
        )
    axes.set(title=title, xlabel="x", ylabel="y", xlim=limits[:2], ylim=limits[2:], aspect="equal")
    axes.grid(False)
    dot = {"marker": "o", "linestyle": "", "markersize": 8}
    handles = [
        Line2D([], [], color=color, label=f"class {band}", **dot) for band, color in enumerate(BANDS)
    ]
    handles.append(
        Line2D([], [], markerfacecolor="none", markeredgecolor="black", label="missed", **dot)
    )
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path)
    plt.close(figure)
    return path


def _save(plt: Any, figure: Any, run: Path, name: str) -> Path:
    path = folder_of(run) / name
    figure.savefig(path)
    plt.close(figure)
    return path
