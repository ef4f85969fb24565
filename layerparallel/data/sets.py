"""Data sets by name."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..errors import UnknownNameError, UnknownOptionError
from .base import Dataset


@dataclass(frozen=True)
class About:
    """What is known of a set before it is read.

    Args:
        comes: where its samples are from.
        megabytes: of the download, 1e6 bytes each.
        shape: of a sample; empty where it is not fixed.
        training: how many training samples there are; None where that is not fixed.
        validation: the same of the validation samples.
        classes: how many classes there are; 0 where that is not fixed.
    """

    comes: Literal["generated", "bundled", "downloaded", "your own folder"]
    megabytes: int = 0
    shape: tuple[int, ...] = ()
    training: int | None = None
    validation: int | None = None
    classes: int = 0


class _Set(NamedTuple):
    module: str
    function: str
    about: About


_GREY, _COLOUR = (1, 28, 28), (3, 32, 32)
_SETS = {
    "cifar-10": _Set("cifar", "cifar10", About("downloaded", 170, _COLOUR, 50_000, 10_000, 10)),
    "cifar-100": _Set("cifar", "cifar100", About("downloaded", 169, _COLOUR, 50_000, 10_000, 100)),
    "digits": _Set("digits", "digits", About("bundled", 0, (1, 8, 8), classes=10)),
    "fashion-mnist": _Set("mnist", "fashion_mnist", About("downloaded", 31, _GREY, 60_000, 10_000, 10)),
    "folder": _Set("folder", "folder", About("your own folder")),
    "indian-pines": _Set("indian_pines", "indian_pines", About("downloaded", 6, classes=16)),
    "level-sets": _Set("level_sets", "level_sets", About("generated", 0, (2,), classes=5)),
    "level-sets-published": _Set("level_sets", "published", About("downloaded", 1, (2,), 5000, 200, 5)),
    "mnist": _Set("mnist", "mnist", About("downloaded", 12, _GREY, 60_000, 10_000, 10)),
    "svhn": _Set("svhn", "svhn", About("downloaded", 246, _COLOUR, 73_257, 26_032, 10)),
}


def names() -> list[str]:
    """The names of all data sets; "folder" is a user's own and takes its path."""
    return sorted(_SETS)


def about(name: str) -> About:
    """What is known of a set before it is read.

    Raises:
        UnknownNameError: with the nearest name that there is.
    """
    return _named(name).about


def load(name: str, **options: Any) -> Dataset:
    """The data set of a name, with the options of its function (`layerparallel.data.NAME`).

    Raises:
        UnknownNameError: with the nearest name, or option, that there is.
        InputError: a file is missing or damaged, or an option is out of its bounds.
    """
    found = _named(name)
    function = getattr(importlib.import_module(f"layerparallel.data.{found.module}"), found.function)
    known = inspect.signature(function).parameters
    for option in options:
        if option not in known:
            raise UnknownOptionError(f"option of the data set {name}", option, known)
    return function(**options)


def _named(name: str) -> _Set:
    if name not in _SETS:
        raise UnknownNameError("data set", name, _SETS)
    return _SETS[name]
