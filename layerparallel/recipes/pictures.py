"""Pictures that only one recipe draws: a land-cover map, and images that a network misses."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
DOTS = 130


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS, layout="constrained")


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, bbox_inches="tight")
    return path


def land_cover(
    path: Path,
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    training: NDArray[np.int64],
    validation: NDArray[np.int64],
    names: tuple[str, ...],
    title: str,
) -> Path:
    """The ground truth, the map a network draws of it, and where validation pixels are missed.

    Args:
        truth, predicted: class of every pixel `(H, W)`; negative in truth where nobody knows.
        training, validation: row and column `(n, 2)` of the pixels of either kind.
        names: of the classes.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    known = truth > UNKNOWN
    palette = [*colormaps["tab20"].colors][: len(names)]  # type: ignore[attr-defined]
    colors = ListedColormap(["#f4f4f4", *palette])
    figure = _figure(13.5, 4.9)
    axes = figure.subplots(1, 4)
    whole = np.where(known, predicted, UNKNOWN)
    maps = (
        ("ground truth", truth),
        ("network, labelled pixels", whole),
        ("network, all pixels", predicted),
    )
    for place, (name, classes) in zip(axes, maps, strict=False):
        place.imshow(
            classes, cmap=colors, vmin=UNKNOWN - 0.5, vmax=len(names) - 0.5, interpolation="nearest"
        )
        place.set_title(name, loc="left", fontsize=11)
    marks = np.zeros(truth.shape, dtype=np.int64)
    marks[known] = 1
    marks[tuple(training.T)] = 2
    rows, columns = validation.T
    marks[rows, columns] = np.where(predicted[rows, columns] == truth[rows, columns], 3, 4)
    kinds = ("not labelled", "labelled, not used", "training", "validation, right", "validation, missed")
    tints = ("#f4f4f4", "#dddddd", "#8db0fe", "#5aae61", "#b40426")
    axes[3].imshow(marks, cmap=ListedColormap(tints), vmin=-0.5, vmax=4.5, interpolation="nearest")
    axes[3].set_title("validation pixels", loc="left", fontsize=11)
    for place in axes:
        place.set_axis_off()
    covers = [Patch(color=color, label=name) for color, name in zip(palette, names, strict=True)]
    split = [Patch(color=color, label=name) for color, name in zip(tints, kinds, strict=True)]
    style = {"frameon": False, "fontsize": 9, "handlelength": 1.2}
    figure.legend(handles=covers, loc="outside lower left", ncols=5, **style)
    figure.legend(handles=split, loc="outside lower right", ncols=2, **style)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    return _save(figure, path)


def missed(
    path: Path,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    found: NDArray[np.int64],
    names: tuple[str, ...],
    title: str,
    columns: int = 10,
) -> Path:
    """Images a network takes for something else, each with what it is and what it is taken for.

    Args:
        images: `(n, C, H, W)`, 0..255; with 3 channels in colour, else the first channel in grey.
        classes, found: `(n,)`, what they are and what they are taken for.
        names: of the classes.
    """
    rows = max(1, -(-len(images) // columns))
    figure = _figure(1.05 * columns, 1.3 * rows + 0.5)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in places:
        place.set_axis_off()
    for place, image, right, wrong in zip(places, images, classes, found, strict=False):
        shown = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
        place.imshow(shown, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        place.set_title(f"{names[right]} → {names[wrong]}", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    return _save(figure, path)
