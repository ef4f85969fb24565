"""Pictures that only some recipes draw: a land-cover map, images that are missed, or made up."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..data.augment import Preparation
from ..data.base import Dataset
from ..runs.evaluate import logits

UNKNOWN = -1
DOTS = 130
MISSED = 50
"""Most images in `surest_misses`."""


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
    figure = _figure(1.2 * columns, 1.6 * rows + 0.5)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in places:
        place.set_axis_off()
    for place, image, right, wrong in zip(places, images, classes, found, strict=False):
        shown = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
        place.imshow(shown, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        place.set_title(f"{names[right]}\n→ {names[wrong]}", loc="left", fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    return _save(figure, path)


def surest_misses(path: Path, data: Dataset, network: nn.Module, prepare: Preparation) -> Path:
    """Validation images that a network takes for something else, the surest first."""
    output = logits(network, data.validation_x, prepare=prepare)
    sureness, found = output.softmax(dim=-1).max(dim=-1)
    wrong = torch.nonzero(found != data.validation_y).squeeze(1)
    shown = wrong[sureness[wrong].argsort(descending=True)][:MISSED]
    return missed(
        path,
        data.validation_x[shown].numpy(),
        data.validation_y[shown].numpy(),
        found[shown].numpy(),
        data.classes,
        title=f"{len(wrong)} of {len(found)} validation images missed; the surest first",
    )


def rows_of_images(path: Path, rows: list[tuple[str, NDArray[np.float64]]], title: str) -> Path:
    """Images in rows, each with what it shows at its left.

    Args:
        rows: a text and images `(n, C, H, W)` in [0, 1], as many in every row; with 3 channels in
            colour, else the first channel in grey.
    """
    count = max(len(images) for _, images in rows)
    figure = _figure(0.75 * count + 1.4, 0.8 * len(rows) + 0.4)
    places = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for place, (text, images) in zip(places, rows, strict=True):
        strip = np.concatenate(list(images), axis=2)
        shown = strip.transpose(1, 2, 0) if len(strip) == 3 else strip[0]
        place.imshow(shown, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        place.set_axis_off()
        style = {"ha": "right", "va": "center", "fontsize": 9}
        place.text(-0.01, 0.5, text, transform=place.transAxes, **style)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    return _save(figure, path)
