"""Splits of a labelled scene into training and validation pixels: at random, or by regions apart.

A pixel is told by its flat place, `row * W + column`. Regions are fields: pixels of one class that
hang together, diagonals included. Whole fields go to training or to validation; where a class has a
single one it is cut across its longer side.
"""

from typing import Any

import numpy as np

from ..errors import InputError

SHARE = 0.4
"""Validation fields of a class make up at most this share of it, where its fields allow."""
Places = tuple[np.ndarray, np.ndarray]


def pixels(
    truth: np.ndarray, training: int, validation: int, stratified: bool, generator: np.random.Generator
) -> Places:
    """So many training and validation pixels, drawn from all that are labelled.

    Args:
        truth: `(H, W)`, class of every pixel, negative where it has none.
        stratified: classes in their proportions instead of as they are drawn.

    Raises:
        InputError: there are not as many.
    """
    labelled = np.nonzero(truth.ravel() >= 0)[0]
    if training + validation > len(labelled):
        raise InputError(
            f"{training} training and {validation} validation pixels are more than the {len(labelled)} "
            "that are labelled: give fewer."
        )
    train = _draw(truth, labelled, "training", training, stratified, generator)
    rest = np.setdiff1d(labelled, train)
    return train, _draw(truth, rest, "validation", validation, stratified, generator)


def regions(
    truth: np.ndarray,
    training: int,
    validation: int,
    stratified: bool,
    generator: np.random.Generator,
    guard: int = 1,
) -> Places:
    """The same from fields apart: none of the one set within `guard` pixels of one of the other.

    Distances count diagonals, so 1 means that no training pixel touches a validation pixel.

    Raises:
        InputError: there are not as many, or guard is negative.
    """
    train, kept = _fields(truth, guard, generator)
    return (
        _draw(truth, train, "training", training, stratified, generator),
        _draw(truth, kept, "validation", validation, stratified, generator),
    )


def _fields(truth: np.ndarray, guard: int, generator: np.random.Generator) -> Places:
    """All pixels that either side may have; those that the guard takes belong to neither."""
    from scipy.ndimage import binary_dilation, label

    if guard < 0:
        raise InputError(f"guard = {guard} is below 0: give the pixels to leave free, or 0.")
    square = np.ones((3, 3), dtype=bool)
    kept = np.zeros(truth.shape, dtype=bool)
    for kind in np.unique(truth[truth >= 0]):
        found: Any = label(truth == kind, structure=square)
        fields, count = found
        kept |= _end(fields == 1, generator) if count == 1 else _some(fields, count, generator)
    near: Any = binary_dilation(kept, structure=square, iterations=guard) if guard else kept
    return np.nonzero(((truth >= 0) & ~near).ravel())[0], np.nonzero(kept.ravel())[0]


def _some(fields: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Whole fields for validation, drawn in random order as long as they fit; at least the smallest."""
    sizes = np.bincount(fields.ravel(), minlength=count + 1)
    room, chosen = SHARE * sizes[1:].sum(), []
    for field in generator.permutation(np.arange(1, count + 1)):
        if sizes[field] <= room:
            chosen.append(field)
            room -= sizes[field]
    return np.isin(fields, chosen or [1 + int(np.argmin(sizes[1:]))])


def _end(field: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One end of a single field, cut across its longer side; which end is drawn."""
    rows, columns = np.nonzero(field)
    along = rows if np.ptp(rows) >= np.ptp(columns) else columns
    if generator.integers(2):
        along = -along
    chosen = along < np.quantile(along, SHARE)
    end = np.zeros_like(field)
    end[rows[chosen], columns[chosen]] = True
    return end


def _draw(
    truth: np.ndarray,
    places: np.ndarray,
    name: str,
    count: int,
    stratified: bool,
    generator: np.random.Generator,
) -> np.ndarray:
    """`count` of the places, in random order."""
    if not 1 <= count <= len(places):
        raise InputError(f"{name} = {count} pixels cannot be drawn: give 1 to {len(places)}.")
    drawn = generator.permutation(places)
    if stratified:  # sorted so that every beginning has the classes in their proportions
        classes = truth.ravel()[drawn]
        order = np.empty(len(drawn))
        for kind in np.unique(classes):
            mine = classes == kind
            order[mine] = (np.arange(mine.sum()) + 0.5) / mine.sum()
        drawn = generator.permutation(drawn[np.argsort(order, kind="stable")][:count])
    return drawn[:count]
