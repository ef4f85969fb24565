"""Pictures of a run: RUN/plots/*.png."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import curves, parareal, stages
from .drawing import DOTS, Plot, settings, sheet
from .story import Story, headline, tell

BANDS = ("#3b4cc0", "#8db0fe", "#c9c9c9", "#f4987a", "#b40426")
"""Of classes."""


def folder_of(run: Path) -> Path:
    """RUN/plots, made where it is not there."""
    folder = run / "plots"
    folder.mkdir(exist_ok=True)
    return folder


def plots(run: Path) -> list[Path]:
    """Draw losses and accuracy over time, and residuals, violations or corrections; the files."""
    story, folder = tell(run), folder_of(run)
    found = []
    for name, drawn in shown(story).items():
        title, columns = (headline(story), 3) if name == "training" else ("", 2)
        found.append(sheet(drawn, folder / f"{name}.png", title, columns))
    return found


def shown(story: Story) -> dict[str, list[Plot]]:
    """What is drawn of a run, by the names of the files; what its method has nothing of is left out."""
    found = {
        "training": [plot for plot in curves.learning([story]) if plot.ticks == "time"],
        "violations": [stages.violations([story])],
        "corrections": [parareal.corrections([story])],
        "residuals": curves.exactness([story]),
    }
    drawn = {name: [plot for plot in plots if plot is not None] for name, plots in found.items()}
    return {name: plots for name, plots in drawn.items() if plots}


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
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colors = ListedColormap(BANDS)
    limits = (-side, side, -side, side)
    shades = {"cmap": colors, "vmin": -0.5, "vmax": len(BANDS) - 0.5}
    with settings():
        figure = Figure(figsize=(6.4, 5.2), dpi=DOTS, layout="constrained")
        axes = figure.subplots()
        shown = {"origin": "lower", "extent": limits, "alpha": 0.55, "interpolation": "nearest"}
        axes.imshow(predicted, **shown, **shades)
        for missed, size, edge, width in ((False, 26, "white", 0.6), (True, 46, "black", 1.4)):
            chosen = wrong == missed
            style = {"s": size, "edgecolors": edge, "linewidths": width, "zorder": 3 + missed}
            axes.scatter(*points[chosen].T, c=classes[chosen], **style, **shades)
        axes.set(xlabel="x", ylabel="y", xlim=limits[:2], ylim=limits[2:], aspect="equal")
        axes.set_title(title, loc="left", fontweight="bold")
        dot = {"marker": "o", "linestyle": "", "markersize": 8}
        handles = [
            Line2D([], [], color=color, label=f"class {band}", **dot) for band, color in enumerate(BANDS)
        ]
        handles.append(
            Line2D([], [], markerfacecolor="none", markeredgecolor="black", label="missed", **dot)
        )
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        figure.savefig(path, bbox_inches="tight")
    return path
