"""What does not fit together in training with auxiliary variables is refused, in one sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...data.batches import Batch
from ...errors import InputError
from .filters import Shape
from .settings import Auxiliary

if TYPE_CHECKING:
    from ...staged import Staged


def stages(network: Staged, settings: Auxiliary) -> None:
    """Raises InputError where the settings are those of another network."""
    cuts = tuple(stage.start for stage in network.stages[1:])
    if settings.stages not in (network.count, cuts):
        raise InputError(
            f"The settings are of stages = {settings.stages} and the network is of {network.count}, cut "
            f"at {cuts}: give the same."
        )


def augmented(shapes: Mapping[int, Shape], settings: Auxiliary) -> None:
    """Raises InputError where states would have to move with their samples and are no images."""
    if settings.augment != "both" or settings.regenerate:
        return
    for k, shape in shapes.items():
        if len(shape) != 3:
            raise InputError(
                f"States of shape {shape} at interface {k} cannot be cropped and flipped with their "
                "samples: give augment serial, or regenerate, or a cut where they are images."
            )


def inputs(x: Tensor, batch: Batch | None, shape: tuple[int, ...]) -> Tensor:
    """The places in the training set of a mini batch's samples, int64 `(b,)`.

    Args:
        x: its inputs, `(b, ...)`.
        batch: as `AuxiliaryMethod.step` got it.
        shape: of an input of the training set.

    Raises:
        InputError: there is no batch, or its inputs are of another shape.
    """
    if batch is None:
        raise InputError(
            "A step got a mini batch without the places of its samples in the training set, to which "
            "auxiliary variables belong: give batch=."
        )
    if x.shape[1:] != shape:
        raise InputError(
            f"A mini batch has inputs of shape {tuple(x.shape[1:])} and the training set of "
            f"{tuple(shape)}: give all of them one shape."
        )
    return batch.index


def places(index: Tensor, samples: int, count: int) -> None:
    """Refuses what are no places of so many different samples of a training set.

    Args:
        index: as a sampler gave it.
        samples: of the mini batch.
        count: of the training set.

    Raises:
        InputError: it is none.
    """
    given = index.cpu()
    if given.is_floating_point() or given.shape != (samples,):
        raise InputError(
            f"A mini batch of {samples} samples has places of shape {tuple(given.shape)} in "
            f"{given.dtype}: give one whole number for each."
        )
    ordered = given.sort().values
    if samples and not (ordered[0] >= 0 and ordered[-1] < count):
        raise InputError(
            f"A mini batch has places from {int(ordered[0])} to {int(ordered[-1])} and the training set "
            f"{count} samples: give places from 0 to {count - 1}."
        )
    if (ordered[1:] == ordered[:-1]).any():
        raise InputError(
            "A mini batch has a sample twice, whose auxiliary variables can be moved once only: give "
            "every place once."
        )


def made(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises InputError where a saved state was made in another way; both say how, by name."""
    for name, value in saved.items():
        if value != here[name]:
            raise InputError(
                f"The saved state is of {name} {value} and this training of {here[name]}: give the same."
            )
