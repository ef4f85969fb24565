"""Pictures of a run: RUN/plots/*.png."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runs.record import history, read, read_summary
from . import parareal, stages
from .drawing import sheet
from .story import tell

OURS, THEIRS = "#1f5fbf", "#d1495b"
FORWARD, ADJOINT = "#1f5fbf", "#e08e1b"
BANDS = ("#3b4cc0", "#8db0fe", "#c9c9c9", "#f4987a", "#b40426")
INK, GRID = "#222222", "#d9d9d9"


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
    """Draw loss and accuracy over time, and residuals, violations or corrections. Returns the files."""
    records = read(run)
    return [training(run, records), _second(run, records)]


def _second(run: Path, records: list[dict[str, Any]]) -> Path:
    """What the method of the run is to be watched by."""
    epochs = history(records, "epoch")
    for key, name, draw in (
        ("violations", "violations.png", stages.violations),
        ("jumps", "corrections.png", parareal.corrections),
    ):
        if any(line.get(key) for line in epochs) and (found := draw([tell(run)])) is not None:
            return sheet([found], folder_of(run) / name)
    return residuals(run, records)


def _column(lines: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    """One value of every line; NaN where a line has none."""
    values = [line.get(key) for line in lines]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _over_time(axes: Any, lines: list[dict[str, Any]], key: str, **style: Any) -> None:
    seconds, values = _column(lines, "seconds"), _column(lines, key)
    there = np.isfinite(values)
    axes.plot(seconds[there], values[there], **style)


def training(run: Path, records: list[dict[str, Any]]) -> Path:
    """Loss and validation accuracy, or loss, over seconds of training, ours and serial.

    Serial epochs among parallel ones are shaded.
    """
    plt = _pyplot()
    ours, theirs = history(records, "epoch"), history(records, "serial")
    serially = sum(line.get("mode") == "serial" for line in ours)
    said = f", {serially} serial ones shaded" if serially else ""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    styles = (
        (ours, {"color": OURS, "label": f"layer-parallel, {len(ours)} epochs{said}"}),
        (theirs, {"color": THEIRS, "label": f"serial PyTorch, {len(theirs)} epochs"}),
    )
    classifies = any(line.get("validation_accuracy") is not None for line in ours)
    score = "validation_accuracy" if classifies else "validation_loss"
    for lines, style in styles:
        if not lines:
            continue
        marker = "o" if len(lines) < 15 else ""
        _over_time(left, lines, "train_loss", marker=marker, markersize=4, **style)
        _over_time(right, lines, score, marker=marker, markersize=4, **style)
    left.set(title="Training loss", ylabel="cross-entropy" if classifies else "loss")
    if classifies:
        from matplotlib.ticker import PercentFormatter

        right.set(title="Validation accuracy")
        right.set_ylim(top=1.0)
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        right.set(title="Validation loss", ylabel="loss")
    for axes in (left, right):
        if axes is left or not classifies:
            _logarithmic(axes)
        axes.set_xlabel("seconds of training")
        axes.set_xlim(left=0)
        for band in stages.bands([tell(run)], over_epochs=False) if serially else []:
            axes.axvspan(band.left, band.right, color=GRID, alpha=0.45, linewidth=0, zorder=0)
    if left.lines:
        left.legend(loc="best" if serially else "upper right")
    _note_speed(right, read_summary(run) or {})
    return _save(plt, figure, run, "training.png")


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, ScalarFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()


def _note_speed(axes: Any, summary: dict[str, Any]) -> None:
    """In a corner, what the serial slice says of speed."""
    if not summary.get("serial_ratio"):
        return
    accuracy = summary.get("validation_accuracy")
    first = [] if accuracy is None else [f"final accuracy {accuracy:.1%}"]
    seconds = (
        f"an epoch: {summary['epoch_seconds']:.2f} s, serially {summary['serial_epoch_seconds']:.2f} s"
    )
    lines = [*first, seconds, f"{summary['serial_ratio']:.1f} times as fast"]
    axes.text(
        0.98,
        0.06,
        "\n".join(lines),
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        linespacing=1.5,
        color=INK,
    )


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
